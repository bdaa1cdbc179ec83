//! Runs one plan, guarded: a panic becomes a verdict, and nothing of one run reaches another.

use crate::outcome::Outcome;
use crate::plan::Plan;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// How much stack a run has.
const STACK_BYTES: usize = 16 << 20;

thread_local! {
    /// Where the last panic of this thread came from, if the thread is a run.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_RUN: RefCell<bool> = const { RefCell::new(false) };
}

static HOOK: Once = Once::new();

/// Whether this build can run plans.
pub fn is_simulated_build() -> bool {
    cfg!(madsim)
}

/// Runs `plan` on a fresh thread.
///
/// The keys of the standard library's hash maps and the thread-local generators are drawn once a
/// thread; on a fresh one they depend on the plan's seed only.
pub fn run(plan: &Plan, keep_trace: bool) -> Outcome {
    HOOK.call_once(keep_panics_quiet);
    let job = plan.clone();
    let thread = std::thread::Builder::new()
        .name(format!("seed {}", plan.seed))
        .stack_size(STACK_BYTES)
        .spawn(move || {
            IS_RUN.with(|is_run| *is_run.borrow_mut() = true);
            catch_unwind(AssertUnwindSafe(|| simulate(&job, keep_trace))).map_err(|_| {
                let text = LAST_PANIC.with(|last| last.borrow_mut().take());
                text.unwrap_or_else(|| "a panic without a message".into())
            })
        })
        .expect("the system has a thread left");
    match thread.join() {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(text)) => Outcome::panicked(plan, text),
        Err(_) => Outcome::panicked(plan, "a panic outside of the simulation".into()),
    }
}

/// Panics of runs are verdicts and are printed as such; all others go where they always go.
fn keep_panics_quiet() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !IS_RUN.with(|is_run| *is_run.borrow()) {
            return usual(info);
        }
        let payload = info.payload();
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line()));
        let text = format!("{message}{}", place.unwrap_or_default());
        // A panic during unwinding follows from the first one.
        LAST_PANIC.with(|last| {
            last.borrow_mut().get_or_insert(text);
        });
    }));
}

#[cfg(madsim)]
fn simulate(plan: &Plan, keep_trace: bool) -> Outcome {
    crate::world::run(plan, keep_trace)
}

#[cfg(not(madsim))]
fn simulate(plan: &Plan, _keep_trace: bool) -> Outcome {
    panic!("seed {} needs the simulated build: run it with `cargo sim`", plan.seed);
}
