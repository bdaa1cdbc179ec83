// --- input: hover, zoom, keys, the table of the moment, the list of events ---

const tip = element("tip"), list = element("events"), filter = element("filter");
const LISTED_MAX = 1500;
const shownKinds = new Set(Object.keys(KINDS));
let listed = [], pending = false;

function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; draw(); });
}

function show(from, to) {
  const span = Math.min(Math.max(to - from, 200), END);
  view.from = Math.min(Math.max(from, 0), END - span);
  view.to = view.from + span;
  redraw();
}

function zoom(factor, around) {
  const middle = around === undefined ? (view.from + view.to) / 2 : around;
  show(middle - (middle - view.from) * factor, middle + (view.to - middle) * factor);
}

function move(share) {
  const by = (view.to - view.from) * share;
  show(view.from + by, view.to + by);
}

// Brings a moment into sight, near enough to see what happens around it.
function goTo(at, around) {
  const span = Math.min(view.to - view.from, around || END);
  if (at < view.from || at > view.to || span < view.to - view.from) {
    show(at - span / 2, at + span / 2);
  }
  look(at);
}

// Everything at one moment, beside the lanes.
function look(at) {
  view.at = at;
  element("moment").textContent = moment(at);
  const body = element("state").tBodies[0];
  body.replaceChildren(...data.members.map((lane, member) => {
    const span = spanAt(lane.spans, at), index = indexAt(lane, at);
    const row = document.createElement("tr");
    const up = span && !["down", "out", "unseen"].includes(span.state);
    let role = span ? STATES[span.state] : "";
    if (span && span.state === "follower") role += " " + memberName(span.leader);
    const cells = [lane.name, role, up ? span.term || "" : "", index[1], index[2]];
    cells.forEach((text) => row.insertCell().textContent = text);
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = colours.members[member];
    row.cells[0].prepend(dot);
    return row;
  }));
  element("active").replaceChildren(...faultsAt(at).map((fault) => {
    const item = document.createElement("li");
    item.textContent = fault.words;
    return item;
  }));
  redraw();
}

// What lies under a point of the canvas.
function under(px, py) {
  const at = timeAt(px), slack = (view.to - view.from) / 300, lines = [];
  const near = (from, to) => from - slack <= at && at <= to + slack;
  if (data.violation && Math.abs(data.violation.at - at) < slack) {
    lines.push(`${data.violation.guarantee} broken: ${data.violation.words}`);
  }
  if (py >= lanes.reign && py < lanes.reign + REIGN) {
    const reign = data.reigns.find((r) => r.from <= at && at < r.to);
    if (reign) {
      const who = reign.member === null ? "nobody leads" : `${memberName(reign.member)} leads ` +
        `term ${reign.term}`;
      lines.push(`${who}\n${moment(reign.from)} for ${length(reign.to - reign.from)}`);
    }
  }
  for (const fault of data.faults) {
    const y = lanes.faults + fault.row * FAULT;
    if (py >= y && py < y + FAULT && near(fault.from, fault.to)) {
      lines.push(`${fault.words}\nfrom ${moment(fault.from)} for ${length(fault.to - fault.from)}`);
    }
  }
  lanes.members.forEach((top, member) => {
    if (py < top || py >= top + ROLE + CURVE + DISK) return;
    const lane = data.members[member], span = spanAt(lane.spans, at);
    if (!span) return;
    const [, commit, applied] = indexAt(lane, at);
    lines.push(`${lane.name} ${STATES[span.state]}` +
      (span.state === "follower" ? ` ${memberName(span.leader)}` : "") +
      (span.term ? `, term ${span.term}` : "") +
      `\n${moment(span.from)} for ${length(span.to - span.from)}` +
      `\ncommit ${commit}, applied ${applied}`);
    for (const [from, to] of lane.stalls) {
      if (near(from, to)) lines.push(`a sync takes ${length(to - from)}`);
    }
    for (const mark of data.marks) {
      if (mark.member === member && Math.abs(mark.at - at) < slack) lines.push(mark.words);
    }
  });
  lanes.clients.forEach((top, client) => {
    if (py < top || py >= top + CALL) return;
    const call = callsOf[client].filter((c) => near(c.from, c.to))
      .sort((a, b) => Math.abs(a.from - at) - Math.abs(b.from - at))[0];
    if (call) {
      lines.push(`${data.clients[client]} asks ${memberName(call.member)}: ` +
        `${ANSWERS[call.answer]} in ${length(call.to - call.from)}\n${call.words}`);
    }
  });
  lanes.watchers.forEach((top, watcher) => {
    if (py < top || py >= top + CALL) return;
    const watch = watchesOf[watcher].filter((w) => near(w.from, w.to))[0];
    if (!watch) return;
    const events = watch.deliveries.filter(([when]) => near(when, when))
      .reduce((sum, [, count]) => sum + count, 0);
    const all = watch.deliveries.reduce((sum, [, count]) => sum + count, 0);
    lines.push(`${data.watchers[watcher]} watches ${watch.words} at ${memberName(watch.member)}` +
      `\n${moment(watch.from)} for ${length(watch.to - watch.from)}, ${all} events` +
      (events ? `, ${events} of them here` : ""));
  });
  return lines.slice(0, 6).join("\n\n");
}

function hover(event) {
  const { left, top } = canvas.getBoundingClientRect();
  const px = event.clientX - left, py = event.clientY - top;
  if (px < NAMES || px > width() - RIGHT) { tip.hidden = true; return; }
  look(Math.min(Math.max(timeAt(px), 0), END));
  const text = under(px, py);
  tip.hidden = !text;
  tip.textContent = text;
  if (!text) return;
  tip.style.left = Math.max(0, Math.min(px + 14, width() - tip.offsetWidth - 4)) + "px";
  const below = py + 18 + tip.offsetHeight < lanes.bottom + 60;
  tip.style.top = (below ? py + 18 : py - tip.offsetHeight - 12) + "px";
}

// --- the list of events ---

function matches(event) {
  if (event.kind === "violation") return true;
  if (!shownKinds.has(event.kind)) return false;
  const who = event.member === null ? "" : memberName(event.member);
  const text = `${who} ${event.words} ${KINDS[event.kind]}`.toLowerCase();
  return filter.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function fillList() {
  listed = events.filter(matches);
  element("count").textContent = `${listed.length} of ${events.length}`;
  const items = listed.slice(0, LISTED_MAX).map((event, i) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const time = document.createElement("time"), who = document.createElement("b");
    const words = document.createElement("span");
    time.textContent = data.wall_ms === null ? seconds(event.at) : moment(event.at).slice(3, 12);
    who.textContent = event.member === null ? "" : memberName(event.member);
    if (event.member !== null) who.style.color = colours.members[event.member];
    words.textContent = event.words;
    button.type = "button";
    if (event.kind === "violation") button.className = "violation";
    if (event.kind === "fault") words.style.color = colours.fault;
    if (event.kind === "crash") words.style.color = colours.bad;
    button.append(time, who, words);
    button.addEventListener("click", () => choose(i));
    item.append(button);
    return item;
  });
  if (listed.length > LISTED_MAX) {
    const more = document.createElement("li");
    more.className = "more";
    more.textContent = `and ${listed.length - LISTED_MAX} more: filter them`;
    items.push(more);
  }
  list.replaceChildren(...items);
  view.chosen = -1;
}

function scrollTo(i) {
  const row = list.children[i];
  if (row) list.scrollTop = row.offsetTop - list.offsetTop - list.clientHeight / 3;
}

function choose(i) {
  if (!listed[i]) return;
  const button = (n) => list.children[n] && list.children[n].querySelector("button");
  if (button(view.chosen)) button(view.chosen).removeAttribute("aria-current");
  view.chosen = i;
  if (button(i)) {
    button(i).setAttribute("aria-current", "true");
    const row = list.children[i];
    if (row.offsetTop < list.scrollTop + list.offsetTop ||
        row.offsetTop + row.offsetHeight > list.scrollTop + list.offsetTop + list.clientHeight) {
      scrollTo(i);
    }
  }
  goTo(listed[i].at, END / 4);
}

function step(by) {
  if (view.chosen >= 0) return choose(view.chosen + by);
  const at = view.at === null ? view.from : view.at;
  const last = lastUpTo(listed, at, (event) => event.at);
  choose(by > 0 ? last + 1 : last);
}

function fillKinds() {
  for (const kind of Object.keys(KINDS)) {
    if (!events.some((event) => event.kind === kind)) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = KINDS[kind];
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!shownKinds.delete(kind)) shownKinds.add(kind);
      button.setAttribute("aria-pressed", String(shownKinds.has(kind)));
      fillList();
    });
    element("kinds").append(button);
  }
}

function fillLegend() {
  const entries = [
    ["leads", colours.members[0], 1], ["follows", colours.members[0], 0.25],
    ["asks for votes", colours.pre, 1], ["campaigns", colours.candidate, 1],
    ["starting", colours.starting, 1], ["down", colours.down, 1], ["fault", colours.fault, 0.5],
  ];
  if (data.marks.some((mark) => mark.kind === "snapshot")) {
    entries.push(["checkpoint", colours.good, 1]);
  }
  if (data.members.some((lane) => lane.stalls.length)) {
    entries.push(["slow sync", colours.stall, 1]);
  }
  if (data.calls.length) {
    entries.push(["answered", colours.done, 1], ["failed", colours.failed, 1],
      ["unknown", colours.unknown, 1]);
  }
  element("legend").replaceChildren(...entries.map(([text, colour, alpha]) => {
    const entry = document.createElement("span"), swatch = document.createElement("i");
    swatch.style.background = colour;
    swatch.style.opacity = alpha;
    entry.append(swatch, text);
    return entry;
  }));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readColours();
  fillLegend();
  fillList();
  look(view.at === null ? 0 : view.at);
}

const actions = {
  in: () => zoom(0.6, view.at === null ? undefined : view.at),
  out: () => zoom(1 / 0.6),
  fit: () => show(0, END),
  broken: () => data.violation && goTo(data.violation.at, END / 4),
  gap: () => {
    if (!gaps.length) return;
    const at = view.at === null ? -1 : view.at;
    const gap = gaps.find((g) => g.from > at) || gaps[0];
    const room = Math.max(gap.to - gap.from, 1e5);
    show(gap.from - room / 2, gap.to + room / 2);
    look(gap.from);
  },
  theme: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  help: () => {
    const help = element("help");
    help.hidden = !help.hidden;
    document.querySelector('[data-do="help"]').setAttribute("aria-expanded", String(!help.hidden));
  },
};

const KEYS = {
  "+": actions.in, "=": actions.in, "-": actions.out, 0: actions.fit, Home: actions.fit,
  ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), n: () => step(1), p: () => step(-1),
  v: actions.broken, g: actions.gap, t: actions.theme, "?": actions.help,
  "/": () => filter.focus(),
};

function listen() {
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", actions[button.dataset.do]);
  }
  document.querySelector('[data-do="broken"]').disabled = !data.violation;
  document.querySelector('[data-do="gap"]').disabled = !gaps.length;
  document.addEventListener("keydown", (event) => {
    if (event.target === filter) {
      if (event.key === "Escape") filter.blur();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  filter.addEventListener("input", fillList);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const at = timeAt(event.clientX - canvas.getBoundingClientRect().left);
    if (event.shiftKey) move(Math.sign(event.deltaY) * 0.1);
    else zoom(event.deltaY > 0 ? 1.2 : 1 / 1.2, at);
  }, { passive: false });
  drag(canvas, (by, start) => {
    const time = by / (width() - NAMES - RIGHT) * (start.to - start.from);
    show(start.from - time, start.to - time);
  });
  drag(overview, (by, start, event) => {
    const left = overview.getBoundingClientRect().left + NAMES;
    const at = (event.clientX - left) / (overview.clientWidth - NAMES - RIGHT) * END;
    const half = (start.to - start.from) / 2;
    show(at - half, at + half);
  });
  canvas.addEventListener("pointermove", hover);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("dblclick", (event) => {
    zoom(0.4, timeAt(event.clientX - canvas.getBoundingClientRect().left));
  });
  window.addEventListener("resize", redraw);
}

function drag(target, moved) {
  target.addEventListener("pointerdown", (down) => {
    const start = { from: view.from, to: view.to };
    target.setPointerCapture(down.pointerId);
    target.classList.add("moving");
    const go = (event) => moved(event.clientX - down.clientX, start, event);
    const stop = () => {
      target.classList.remove("moving");
      target.removeEventListener("pointermove", go);
    };
    target.addEventListener("pointermove", go);
    target.addEventListener("pointerup", stop, { once: true });
    target.addEventListener("pointercancel", stop, { once: true });
  });
}

// The address may say what to look at: #theme=dark&from=2&to=9&at=4.5, in seconds.
function begin() {
  const wish = new URLSearchParams(location.hash.slice(1));
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const number = (name, otherwise) => wish.has(name) ? Number(wish.get(name)) * 1e6 : otherwise;
  describe();
  fillKinds();
  setTheme(wish.get("theme") || (dark ? "dark" : "light"));
  listen();
  show(number("from", 0), number("to", END));
  look(number("at", data.violation ? data.violation.at : gaps.length ? gaps[0].from : 0));
  scrollTo(lastUpTo(listed, view.at, (event) => event.at));
}

begin();
