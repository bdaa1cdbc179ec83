// --- drawing: a canvas of lanes, and an overview of all of it ---

const canvas = element("canvas"), overview = element("overview");
const NAMES = 92, RIGHT = 20, AXIS = 26, REIGN = 24, FAULT = 19, ROLE = 24, CURVE = 38, DISK = 14;
const GAP = 12, CALL = 15;
const view = { from: 0, to: END, at: null, chosen: -1 };
const FONT = '12px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif';

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "panel", "ink", "soft", "line", "accent", "bad", "bad-soft", "good",
    "warn", "down", "starting", "candidate", "pre", "unseen", "fault", "done", "refused",
    "failed", "unknown", "stall", "commit", "applied"];
  colours = {};
  for (const name of names) colours[name] = style.getPropertyValue("--" + name).trim();
  colours.members = data.members.map((_, m) => style.getPropertyValue("--m" + (m % 9)).trim());
}

// Where every lane lies.
function layout() {
  const lanes = { axis: 0 };
  let y = AXIS;
  lanes.reign = y; y += REIGN + 8;
  lanes.faults = y; y += Math.max(faultRows, data.faults.length ? 1 : 0) * FAULT;
  y += data.faults.length ? 10 : 0;
  lanes.members = data.members.map(() => {
    const top = y;
    y += ROLE + CURVE + DISK + GAP;
    return top;
  });
  lanes.clients = data.clients.map(() => { const top = y; y += CALL; return top; });
  lanes.watchers = data.watchers.map(() => { const top = y; y += CALL; return top; });
  lanes.bottom = y + 6;
  return lanes;
}
const lanes = layout();

const width = () => canvas.clientWidth;
const x = (at) => NAMES + (at - view.from) / (view.to - view.from) * (width() - NAMES - RIGHT);
const timeAt = (px) =>
  view.from + (px - NAMES) / (width() - NAMES - RIGHT) * (view.to - view.from);

function prepare(target, height) {
  const scale = window.devicePixelRatio || 1;
  target.width = Math.round(target.clientWidth * scale);
  target.height = Math.round(height * scale);
  target.style.height = height + "px";
  const pen = target.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = FONT;
  pen.textBaseline = "middle";
  return pen;
}

function hatch(pen, colour, step = 7) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = step;
  const inner = tile.getContext("2d");
  inner.strokeStyle = colour;
  inner.lineWidth = 1.4;
  inner.beginPath();
  for (const offset of [-step, 0, step]) {
    inner.moveTo(offset, step);
    inner.lineTo(offset + step, 0);
  }
  inner.stroke();
  return pen.createPattern(tile, "repeat");
}

// A box between two moments, no thinner than can be seen; false if it is out of sight.
function box(pen, from, to, y, height, least = 1) {
  const left = Math.max(x(from), NAMES), right = Math.min(x(to), width() - RIGHT);
  if (x(to) < NAMES || left > width() - RIGHT) return null;
  const w = Math.max(right - left, least);
  pen.fillRect(left, y, w, height);
  return { left, w };
}

function label(pen, text, place, y, colour) {
  if (!place || place.w < 26) return;
  const room = place.w - 10;
  let shown = text;
  if (pen.measureText(shown).width > room) {
    while (shown && pen.measureText(shown + "..").width > room) shown = shown.slice(0, -1);
    if (shown.length < 3) return;
    shown += "..";
  }
  pen.fillStyle = colour;
  pen.fillText(shown, place.left + 5, y);
}

function drawAxis(pen) {
  const span = view.to - view.from, ticks = Math.max(3, Math.floor((width() - NAMES) / 110));
  const steps = [1, 2, 5].flatMap((n) => [0, 1, 2, 3, 4, 5, 6, 7, 8].map((e) => n * 10 ** e));
  const step = steps.sort((a, b) => a - b).find((s) => span / s <= ticks) || 1e9;
  const digits = Math.max(0, 6 - Math.floor(Math.log10(step)));
  pen.strokeStyle = colours.line;
  pen.fillStyle = colours.soft;
  pen.lineWidth = 1;
  pen.textAlign = "center";
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    const px = Math.round(x(at)) + 0.5;
    pen.globalAlpha = 0.7;
    pen.beginPath();
    pen.moveTo(px, AXIS - 5);
    pen.lineTo(px, lanes.bottom);
    pen.stroke();
    pen.globalAlpha = 1;
    const text = data.wall_ms === null ? seconds(at, digits)
      : new Date(data.wall_ms + at / 1000).toISOString().slice(11, digits ? 23 : 19);
    pen.fillText(text, Math.min(Math.max(px, NAMES + 14), width() - 34), AXIS / 2 - 1);
  }
  pen.textAlign = "left";
}

function drawReigns(pen) {
  const gapHatch = hatch(pen, colours.bad);
  for (const reign of data.reigns) {
    const led = reign.member !== null;
    pen.fillStyle = led ? colours.members[reign.member] : colours["bad-soft"];
    const place = box(pen, reign.from, reign.to, lanes.reign, REIGN, led ? 1 : 2);
    if (!led && place) {
      pen.fillStyle = gapHatch;
      pen.globalAlpha = 0.55;
      box(pen, reign.from, reign.to, lanes.reign, REIGN, 2);
      pen.globalAlpha = 1;
    }
    const text = led ? `${memberName(reign.member)} leads, term ${reign.term}`
      : `no leader ${length(reign.to - reign.from)}`;
    if (led) {
      label(pen, text, place, lanes.reign + REIGN / 2, "#fff");
    } else if (place && place.w > 40) {
      pen.font = "600 " + FONT;
      const room = Math.min(pen.measureText(text).width + 8, place.w - 6);
      pen.fillStyle = colours["bad-soft"];
      pen.fillRect(place.left + 2, lanes.reign + 4, room, REIGN - 8);
      label(pen, text, place, lanes.reign + REIGN / 2, colours.bad);
      pen.font = FONT;
    }
  }
}

function drawFaults(pen) {
  for (const fault of data.faults) {
    const y = lanes.faults + fault.row * FAULT;
    pen.fillStyle = colours.fault;
    pen.globalAlpha = 0.22;
    const place = box(pen, fault.from, fault.to, y + 1, FAULT - 3, 3);
    pen.globalAlpha = 1;
    if (place && x(fault.from) >= NAMES) pen.fillRect(place.left, y + 1, 3, FAULT - 3);
    if (!place) continue;
    const edge = width() - RIGHT;
    const end = fault.next === undefined ? edge : Math.min(x(fault.next), edge);
    const room = { left: place.left + 3, w: end - place.left - 3 };
    label(pen, fault.words, room, y + FAULT / 2, colours.ink);
  }
}

function stateColour(state, member) {
  return { leader: colours.members[member], candidate: colours.candidate, down: colours.down,
    "pre-candidate": colours.pre, starting: colours.starting, out: colours.bad,
    unseen: colours.unseen }[state];
}

function drawMember(pen, lane, member, patterns) {
  const top = lanes.members[member];
  for (const span of lane.spans) {
    const follows = span.state === "follower";
    pen.fillStyle = follows
      ? (span.leader === null ? colours.starting : colours.members[span.leader])
      : stateColour(span.state, member);
    pen.globalAlpha = follows ? (span.leader === null ? 0.55 : 0.2) : 1;
    const place = box(pen, span.from, span.to, top, ROLE);
    pen.globalAlpha = 1;
    if (span.state === "down" || span.state === "out") {
      pen.fillStyle = patterns.down;
      box(pen, span.from, span.to, top, ROLE);
    }
    const light = ["leader", "down", "out"].includes(span.state);
    let text = STATES[span.state];
    if (follows) text = span.leader === null ? "no leader" : `follows ${memberName(span.leader)}`;
    if (span.term) text += `, term ${span.term}`;
    const dark = ["candidate", "pre-candidate"].includes(span.state) ? "#241a06" : colours.ink;
    label(pen, text, place, top + ROLE / 2, light ? "#fff" : dark);
  }
  for (const [from, to] of lane.pauses) {
    pen.fillStyle = patterns.pause;
    label(pen, "paused", box(pen, from, to, top, ROLE, 2), top + ROLE / 2, colours.ink);
  }
  drawCurves(pen, lane, top + ROLE + 4);
  for (const fault of data.faults) {
    if (!fault.members.includes(member)) continue;
    pen.fillStyle = colours.fault;
    box(pen, fault.from, fault.to, top + ROLE, 3, 2);
  }
  pen.fillStyle = colours.line;
  pen.globalAlpha = 0.5;
  box(pen, view.from, view.to, top + ROLE + CURVE + 1, 1);
  pen.globalAlpha = 1;
  for (const [from, to] of lane.stalls) {
    pen.fillStyle = colours.stall;
    const place = box(pen, from, to, top + ROLE + CURVE - 2, DISK, 2);
    label(pen, `sync ${length(to - from)}`, place && place.w > 70 ? place : null,
      top + ROLE + CURVE + 5, "#fff");
  }
}

function drawCurves(pen, lane, top) {
  const height = CURVE - 8;
  const range = highestIndex - lowestIndex || 1;
  const y = (index) => top + height - Math.max(0, index - lowestIndex) / range * height;
  const first = Math.max(0, lastUpTo(lane.index, view.from, (p) => p[0]));
  const line = (which, colour, fill) => {
    pen.beginPath();
    let last = null;
    for (let i = first; i < lane.index.length; i++) {
      const point = lane.index[i];
      const px = Math.max(NAMES, Math.min(x(point[0]), width() - RIGHT));
      if (last === null) pen.moveTo(px, y(point[which]));
      else { pen.lineTo(px, last); pen.lineTo(px, y(point[which])); }
      last = y(point[which]);
      if (point[0] > view.to) break;
    }
    if (last === null) return;
    pen.lineTo(Math.min(x(END), width() - RIGHT), last);
    if (fill) {
      pen.lineTo(Math.min(x(END), width() - RIGHT), top + height);
      pen.lineTo(Math.max(NAMES, x(lane.index[first][0])), top + height);
      pen.globalAlpha = 0.16;
      pen.fillStyle = colour;
      pen.fill();
      pen.globalAlpha = 1;
    } else {
      pen.strokeStyle = colour;
      pen.lineWidth = 1.3;
      pen.stroke();
    }
  };
  line(2, colours.applied, true);
  line(2, colours.applied, false);
  line(1, colours.commit, false);
}

function drawClients(pen) {
  callsOf.forEach((calls, client) => {
    const y = lanes.clients[client];
    for (const call of calls) {
      if (call.to < view.from || call.from > view.to) continue;
      pen.fillStyle = colours[call.answer];
      pen.globalAlpha = call.answer === "done" ? 0.75 : 1;
      box(pen, call.from, call.to, y + 2, CALL - 5, 1.5);
    }
    pen.globalAlpha = 1;
  });
}

// A band as long as each stream is open, in the colour of its member, and a stroke for each
// message: high with events, low with a promise of progress only.
function drawWatchers(pen) {
  watchesOf.forEach((watches, watcher) => {
    const y = lanes.watchers[watcher];
    for (const watch of watches) {
      if (watch.to < view.from || watch.from > view.to) continue;
      pen.fillStyle = colours.members[watch.member];
      pen.globalAlpha = 0.3;
      box(pen, watch.from, watch.to, y + 3, CALL - 7, 1.5);
      pen.globalAlpha = 0.9;
      for (const [at, events] of watch.deliveries) {
        if (events) box(pen, at, at, y + 2, CALL - 5, 1.5);
        else box(pen, at, at, y + CALL - 6, 3, 1);
      }
      pen.globalAlpha = 1;
    }
  });
}

function drawMarks(pen) {
  for (const mark of data.marks) {
    if (mark.at < view.from || mark.at > view.to) continue;
    if (!["crash", "snapshot"].includes(mark.kind) || mark.member === null) continue;
    const px = x(mark.at), y = lanes.members[mark.member] + ROLE + CURVE / 2;
    if (mark.kind === "crash") {
      pen.strokeStyle = colours.bad;
      pen.lineWidth = 2.2;
      pen.beginPath();
      for (const [a, b] of [[-4, -4], [-4, 4]]) {
        pen.moveTo(px + a, y + b);
        pen.lineTo(px - a, y - b);
      }
      pen.stroke();
    } else {
      pen.fillStyle = colours.good;
      pen.fillRect(px - 2, lanes.members[mark.member] + ROLE + CURVE - 2, 4, DISK);
    }
  }
}

function drawNames(pen) {
  pen.fillStyle = colours.paper;
  pen.fillRect(0, 0, NAMES, lanes.bottom);
  pen.fillRect(width() - RIGHT, 0, RIGHT, lanes.bottom);
  const name = (text, y, colour, weight = "") => {
    pen.font = weight + FONT;
    pen.fillStyle = colour;
    pen.fillText(text, 0, y);
  };
  name("who leads", lanes.reign + REIGN / 2, colours.ink, "600 ");
  if (data.faults.length) name("faults", lanes.faults + FAULT / 2, colours.fault, "600 ");
  data.members.forEach((lane, member) => {
    const top = lanes.members[member];
    name(lane.name, top + ROLE / 2, colours.members[member], "700 ");
    name("commit", top + ROLE + 11, colours.commit);
    name("applied", top + ROLE + 26, colours.applied);
    if (lane.stalls.length) name("slow syncs", top + ROLE + CURVE + 5, colours.stall);
  });
  data.clients.forEach((client, i) => {
    name(client, lanes.clients[i] + CALL / 2, colours.soft);
  });
  data.watchers.forEach((watcher, i) => {
    name(watcher, lanes.watchers[i] + CALL / 2, colours.soft);
  });
  pen.font = FONT;
}

// A line through all lanes with a flag on top.
function drawLine(pen, at, colour, text, dash) {
  if (at === null || at < view.from || at > view.to) return;
  const px = x(at);
  pen.strokeStyle = colour;
  pen.lineWidth = dash ? 1 : 2;
  pen.setLineDash(dash ? [3, 3] : []);
  pen.beginPath();
  pen.moveTo(px, AXIS - 4);
  pen.lineTo(px, lanes.bottom);
  pen.stroke();
  pen.setLineDash([]);
  if (!text) return;
  pen.font = "600 " + FONT;
  const w = pen.measureText(text).width + 12;
  const left = Math.min(Math.max(px - w / 2, NAMES), width() - w);
  pen.fillStyle = colour;
  pen.fillRect(left, 0, w, AXIS - 6);
  pen.fillStyle = colours.paper;
  pen.fillText(text, left + 6, (AXIS - 6) / 2);
  pen.font = FONT;
}

function draw() {
  const pen = prepare(canvas, lanes.bottom);
  pen.clearRect(0, 0, width(), lanes.bottom);
  drawAxis(pen);
  const patterns = { down: hatch(pen, "#ffffff2e"), pause: hatch(pen, colours.soft, 6) };
  drawReigns(pen);
  drawFaults(pen);
  data.members.forEach((lane, member) => drawMember(pen, lane, member, patterns));
  drawClients(pen);
  drawWatchers(pen);
  drawMarks(pen);
  drawNames(pen);
  const flag = data.violation;
  drawLine(pen, view.at, colours.accent, view.at === null ? "" : moment(view.at), true);
  if (flag) drawLine(pen, flag.at, colours.bad, `${flag.guarantee} broken`);
  drawOverview();
}

function drawOverview() {
  const height = 34, pen = prepare(overview, height);
  const full = overview.clientWidth - NAMES - RIGHT;
  const place = (at) => NAMES + at / END * full;
  pen.clearRect(0, 0, overview.clientWidth, height);
  pen.fillStyle = colours.soft;
  pen.fillText("all of it", 0, height / 2);
  for (const reign of data.reigns) {
    pen.fillStyle = reign.member === null ? colours.bad : colours.members[reign.member];
    pen.globalAlpha = 0.55;
    pen.fillRect(place(reign.from), 8, Math.max(1, place(reign.to) - place(reign.from)), 10);
  }
  pen.fillStyle = colours.fault;
  for (const fault of data.faults) {
    pen.fillRect(place(fault.from), 20, Math.max(2, place(fault.to) - place(fault.from)), 4);
  }
  pen.globalAlpha = 1;
  if (data.violation) {
    pen.fillStyle = colours.bad;
    pen.fillRect(place(data.violation.at) - 1, 2, 2, 28);
  }
  pen.strokeStyle = colours.accent;
  pen.lineWidth = 2;
  pen.strokeRect(place(view.from), 4, Math.max(4, place(view.to) - place(view.from)), 24);
}
