// --- what is shown: the data, and questions about it ---

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const END = Math.max(data.end, 1);

const STATES = {
  leader: "leads", follower: "follows", "pre-candidate": "asks for votes",
  candidate: "campaigns", down: "down", starting: "starting", out: "refuses to start",
  unseen: "not seen",
};
const KINDS = {
  election: "elections", process: "starts", crash: "crashes", disk: "disk", fault: "faults",
  snapshot: "checkpoints", links: "links", other: "other",
};
const ANSWERS = {
  done: "answered", refused: "refused", failed: "failed", unknown: "outcome unknown",
};

function seconds(micros, digits = 3) {
  return (micros / 1e6).toFixed(digits) + " s";
}

function length(micros) {
  if (micros < 1000) return micros.toFixed(0) + " us";
  if (micros < 1e6) return (micros / 1000).toFixed(micros < 1e4 ? 1 : 0) + " ms";
  return (micros / 1e6).toFixed(2) + " s";
}

// The moment as a person names it: the time of day where it is known, else seconds.
function moment(at) {
  if (data.wall_ms === null) return seconds(at);
  return new Date(data.wall_ms + at / 1000).toISOString().slice(11, 23) + " UTC";
}

// The last entry of a list ordered by `key` that is not beyond `at`.
function lastUpTo(list, at, key) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(list[middle]) <= at) low = middle + 1; else high = middle;
  }
  return low - 1;
}

function spanAt(spans, at) {
  const i = lastUpTo(spans, at, (span) => span.from);
  return i < 0 ? null : spans[i];
}

function indexAt(lane, at) {
  const i = lastUpTo(lane.index, at, (point) => point[0]);
  return i < 0 ? [0, 0, 0] : lane.index[i];
}

function faultsAt(at) {
  return data.faults.filter((fault) => fault.from <= at && at <= Math.max(fault.to, fault.from));
}

function memberName(member) {
  return member === null || member === undefined ? "nobody" : data.members[member].name;
}

// Times without a leader, once there was one.
const firstReign = data.reigns.findIndex((reign) => reign.member !== null);
// What is no longer than a handover is no outage.
const HANDOVER_MAX = 10000;
const gaps = data.reigns.filter((reign, i) =>
  i > firstReign && reign.member === null && reign.to - reign.from >= HANDOVER_MAX);

// Every event, the violation among them, in order.
const events = data.marks.map((mark) => ({ ...mark }));
if (data.violation) {
  const { at, guarantee, words } = data.violation;
  events.push({ at, member: null, kind: "violation", words: `${guarantee} broken: ${words}` });
  events.sort((a, b) => a.at - b.at);
}

// Faults in rows, so that none lies on another. Each knows which one follows in its row: its words
// may run on until there.
const faultRows = (() => {
  const rows = [], last = [];
  for (const fault of data.faults) {
    const row = rows.findIndex((to) => to <= fault.from);
    fault.row = row < 0 ? rows.length : row;
    rows[fault.row] = Math.max(fault.to, fault.from + END / 250);
    if (last[fault.row]) last[fault.row].next = fault.from;
    last[fault.row] = fault;
  }
  return rows.length;
})();

const callsOf = data.clients.map((_, client) => data.calls.filter((c) => c.client === client));
const watchesOf = data.watchers.map((_, i) => data.watches.filter((w) => w.watcher === i));
const highestIndex = Math.max(1, ...data.members.flatMap((lane) => lane.index.map((p) => p[1])));
// Entries from before the first moment would press the curves against the top.
const lowestIndex = Math.min(
  ...data.members.flatMap((lane) => lane.index.filter((p) => p[2] > 0).slice(0, 1)
    .map((p) => p[2])), highestIndex - 1);

function describe() {
  const verdict = element("verdict");
  const recorded = data.wall_ms !== null;
  verdict.className = data.violation ? "broken" : recorded ? "recorded" : "held";
  verdict.textContent = data.violation
    ? `${data.violation.guarantee} broken at ${moment(data.violation.at)}`
    : recorded ? "recorded by a real cluster" : "no guarantee broken";
  const facts = element("facts");
  for (const [name, text] of data.facts) {
    const value = document.createElement(name === "story" ? "span" : "b");
    if (name === "story") value.className = "story"; else facts.append(name + " ");
    value.textContent = text;
    facts.append(value);
  }
  const total = gaps.reduce((sum, gap) => sum + gap.to - gap.from, 0);
  const longest = gaps.reduce((most, gap) => Math.max(most, gap.to - gap.from), 0);
  const sums = {};
  for (const call of data.calls) sums[call.answer] = (sums[call.answer] || 0) + 1;
  const answers = Object.keys(ANSWERS).filter((a) => sums[a]).map((a) => `${sums[a]} ${ANSWERS[a]}`);
  const leaders = new Set(data.reigns.map((reign) => reign.member).filter((m) => m !== null));
  const parts = [
    `${seconds(END, 1)} with ${data.members.length} members; ${leaders.size} of them led.`,
    gaps.length
      ? `Nobody led ${gaps.length === 1 ? "once" : gaps.length + " times"}, for ${length(total)} ` +
        `in all and ${length(longest)} at the longest.`
      : "There was a leader all the time, once one was elected.",
  ];
  if (answers.length) parts.push(`Of ${data.calls.length} calls: ${answers.join(", ")}.`);
  element("summary").textContent = parts.join(" ");
}
