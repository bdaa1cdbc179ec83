//! Feeds the watchers that are behind from history, in bounded steps.

use super::history::{History, Revision};
use super::hub::Hub;
use super::ranges::Slot;
use super::stream::Turn;
use super::watcher::State;

/// How many watchers take part in one step.
const STEP_WATCHERS_MAX: usize = 4096;

/// Up to so many watchers are compared with each change one by one; more are looked up.
const COMPARE_MAX: usize = 8;

/// How much one step may do.
#[derive(Clone, Copy, Debug)]
pub struct StepBudget {
    /// How many changes may be read from history.
    pub changes: usize,
    /// How many items may be queued; the revision at hand is finished even so.
    pub items: usize,
}

impl Default for StepBudget {
    fn default() -> StepBudget {
        StepBudget { changes: 1000, items: 20_000 }
    }
}

impl Hub {
    /// Whether a step of `catch_up` would find something to do.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// How many revisions the watcher farthest behind has to catch up with.
    pub fn farthest_behind(&self) -> i64 {
        self.behind.first().map_or(0, |(next, _)| self.revision + 1 - next)
    }

    /// One bounded step: reads one stretch of history and hands it to all watchers that are
    /// within it. Says whether there is more to do.
    ///
    /// Steps turn about between the watcher farthest behind and the one least far, so that the
    /// one does not keep the other waiting for a million revisions. On its way the last one
    /// picks up all others. A value that can't be read ends the work until somebody asks again.
    pub fn catch_up<H: History + ?Sized>(&mut self, history: &H, budget: StepBudget) -> bool {
        self.end_compacted(history.compact_revision());
        self.newest_first = !self.newest_first;
        let pick = if self.newest_first { self.behind.last() } else { self.behind.first() };
        let Some(&(from, _)) = pick else { return false };
        assert!(from <= self.revision, "behind at {from}, published {}", self.revision);

        let stretch = history.history(from, self.revision, budget.changes);
        let Ok(stretch) = stretch else { return false };
        let last = stretch.last().map_or(self.revision, |revision| revision.main);
        let step = self.take_step(from, last);
        let upto = self.hand_out(&stretch, last, &step, budget.items);
        self.finish_step(&step, upto);
        self.is_behind()
    }

    /// Ends the watchers that want what is compacted, each behind the events it still has.
    fn end_compacted(&mut self, compact_revision: i64) {
        while let Some(&(next, slot)) = self.behind.first() {
            if next >= compact_revision {
                break;
            }
            self.behind.pop_first();
            let watcher = self.watchers[slot as usize].as_mut().expect("a watcher behind");
            watcher.state = State::Doomed { compact_revision };
            self.index.remove(&watcher.range, slot);
            let (serial, id) = (watcher.serial, watcher.stream);
            let stream = self.stream(id);
            stream.line.push_back(Turn::End(slot, serial));
            stream.wake();
        }
    }

    /// Takes the watchers whose next revision lies in a stretch off the list.
    fn take_step(&mut self, from: i64, last: i64) -> Vec<Slot> {
        let within = self.behind.range((from, 0)..=(last, Slot::MAX));
        let taken: Vec<(i64, Slot)> = within.take(STEP_WATCHERS_MAX).copied().collect();
        for place in &taken {
            self.behind.remove(place);
            let watcher = self.watchers[place.1 as usize].as_mut().expect("a watcher behind");
            watcher.in_step = true;
        }
        taken.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Queues a stretch of history and returns the last revision that was handed out whole.
    fn hand_out(
        &mut self,
        stretch: &[Revision],
        last: i64,
        step: &[Slot],
        items_max: usize,
    ) -> i64 {
        let mut items = 0;
        let mut touched = std::mem::take(&mut self.touched);
        let mut upto = last;
        for revision in stretch {
            self.find(revision, step, &mut touched);
            items += touched.len();
            for slot in touched.drain(..) {
                self.offer(slot, revision.main, &revision.changes);
            }
            if items >= items_max {
                upto = revision.main;
                break;
            }
        }
        self.touched = touched;
        upto
    }

    /// Notes in each watcher of the step which changes of a revision it gets.
    fn find(&mut self, revision: &Revision, step: &[Slot], touched: &mut Vec<Slot>) {
        for (n, change) in revision.changes.iter().enumerate() {
            let n = u32::try_from(n).expect("fewer than 2^32 changes in a revision");
            let watchers = &mut self.watchers;
            let mut note = |slot: Slot, compare: bool| {
                let watcher = watchers[slot as usize].as_mut().expect("an indexed watcher");
                let owed = watcher.in_step
                    && watcher.state == State::Behind
                    && watcher.next <= revision.main;
                let hit = owed && (!compare || watcher.range.contains(&change.kv.key));
                if hit && watcher.wants(change) {
                    if watcher.hits.is_empty() {
                        touched.push(slot);
                    }
                    watcher.hits.push(n);
                }
            };
            if step.len() <= COMPARE_MAX {
                step.iter().for_each(|&slot| note(slot, true));
            } else {
                let each = &mut |slots: &[Slot]| slots.iter().for_each(|&slot| note(slot, false));
                self.index.for_key(&change.kv.key, each);
            }
        }
    }

    /// Moves the watchers of a step on; one that has nothing more to catch up with is synced.
    fn finish_step(&mut self, step: &[Slot], upto: i64) {
        for &slot in step {
            let watcher = self.watchers[slot as usize].as_mut().expect("no step removes one");
            watcher.in_step = false;
            if watcher.state != State::Behind {
                assert!(watcher.state == State::Parked, "{:?} after a step", watcher.state);
                continue;
            }
            watcher.next = watcher.next.max(upto + 1);
            if watcher.next > self.revision {
                watcher.state = State::Synced;
            } else {
                self.behind.insert((watcher.next, slot));
            }
        }
    }
}
