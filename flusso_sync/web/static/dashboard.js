// Draws what /status and /history say.  Text goes in as text: nothing of an answer is ever read as HTML.
"use strict";

const POLL_SECONDS = 2;
const HIDDEN_SECONDS = 30; // nobody looks at a tab in the background
const HISTORY_SECONDS = 10;
const ANSWER_SECONDS = 5;
const ACTION_SECONDS = 40; // the daemon takes 25 s for its longest answer

const byId = (id) => document.getElementById(id);
const PRIVATE = document.documentElement.dataset.surface === "private";
const DASH = "–";

// -- how things are written ------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function count(n) {
  return n === null || n === undefined ? DASH : whole.format(n);
}

function rate(n) {
  if (n === null || n === undefined) return DASH;
  return n >= 10 ? whole.format(n) : tenths.format(n);
}

function seconds(n) {
  if (n === null || n === undefined) return DASH;
  if (n < 0.00005) return "0 ms";
  if (n < 1) return `${n < 0.01 ? tenths.format(n * 1000) : whole.format(n * 1000)} ms`;
  if (n < 100) return `${n < 10 ? tenths.format(n) : whole.format(n)} s`;
  const minutes = Math.round(n / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function bytes(n) {
  if (n === null || n === undefined) return DASH;
  let unit = 0;
  while (n >= 1024 && unit < 4) {
    n /= 1024;
    unit += 1;
  }
  return `${n < 10 && unit ? tenths.format(n) : whole.format(n)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}

function clock(moment) {
  return moment.toLocaleTimeString("en-GB");
}

function plural(n, word) {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}

// -- small things with nodes -----------------------------------------------------------------------

function write(node, text) {
  // Only what changed: screen readers and selections are left alone.
  if (node.textContent !== text) node.textContent = text;
}

function flag(node, name, on) {
  if (on) node.dataset[name] = on === true ? "" : on;
  else delete node.dataset[name];
}

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("data-") || name === "role" || name === "scope") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

// Children of `parent`, one per [key, value], kept over polls, so that focus and place stay where they are.
function keyed(parent, entries, create, update) {
  const known = (parent.known ??= new Map());
  const wanted = new Set(entries.map(([key]) => key));
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
  entries.forEach(([key, value], place) => {
    let node = known.get(key);
    if (node === undefined) known.set(key, (node = create(key)));
    update(node, value, key);
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
  });
}

function pairs(list, entries) {
  const nodes = entries.flatMap(([name, value]) => [
    [`${name} name`, name],
    [`${name} value`, value],
  ]);
  keyed(
    list,
    nodes,
    (key) => make(key.endsWith(" name") ? "dt" : "dd"),
    (node, value) => {
      const { text, late } = typeof value === "string" ? { text: value, late: false } : value;
      write(node, text);
      flag(node, "late", late);
    }
  );
}

// -- state and trouble -----------------------------------------------------------------------------

const WORDS = {
  starting: ["Starting", "Not everything it needs is there yet."],
  backfilling: ["Building", "First builds are under way; changes flow meanwhile."],
  live: ["Live", "Every change reaches every index."],
  stopped: ["Stopped", "Nothing flows until it is started again."],
};

function drawState(status) {
  const [word, sentence] = WORDS[status.phase] ?? [status.phase, ""];
  const blocking = status.trouble.filter((one) => one.blocking);
  let mood = status.phase === "live" ? "good" : "busy";
  let text = sentence;
  let shown = word;
  if (!status.ready) {
    mood = status.phase === "starting" && !blocking.length ? "busy" : "bad";
    if (!blocking.length) text = status.phase === "starting" ? sentence : `Not ready: ${status.ready_reason}`;
    else text = `Not ready: ${blocking[0].what}`;
    if (status.phase === "live" || status.phase === "backfilling") shown = `${word}, held up`;
  } else if (status.gap) {
    mood = "warn";
    text = "Changes were lost, so every index is built anew beside what is read.";
  } else if (status.trouble.length) {
    mood = "warn";
    text = `${plural(status.trouble.length, "trouble")}, and changes flow all the same.`;
  }
  const busy = Object.values(status.index_details).filter((index) => index.build).length;
  if (mood === "good" && busy) text = `Changes flow; ${plural(busy, "index").replace("indexs", "indexes")} built anew beside what is read.`;
  byId("state").dataset.mood = mood;
  write(byId("phase"), shown);
  write(byId("sentence"), text);
  document.title = `${mood === "bad" ? "! " : ""}${shown} · flusso-sync`;

  write(byId("lag"), seconds(status.lag_seconds));
  write(byId("changes"), `${rate(status.rates.changes_per_second)}/s`);
  write(byId("documents"), `${rate(status.rates.documents_per_second)}/s`);
  write(byId("in-flight"), count(status.changes_in_flight));
  const parts = [];
  if (status.slot.name) parts.push(`slot ${status.slot.name}`);
  parts.push(`up ${seconds(status.uptime_seconds)}`);
  if (PRIVATE) parts.push("private surface");
  const changed = status.configuration.waits_for_restart ?? [];
  if (changed.length) parts.push(`a restart takes over ${changed.join(", ")}`);
  write(byId("where"), parts.join(" · "));
}

function drawTroubles(status) {
  const troubles = [...status.trouble].sort((one, other) => other.blocking - one.blocking);
  if (status.gap) troubles.unshift({ key: "gap", what: status.gap, todo: "Every index is built anew; readers keep what they have until that is done.", gap: true });
  byId("trouble").hidden = troubles.length === 0;
  keyed(
    byId("troubles"),
    troubles.map((one) => [one.key, one]),
    () => make("li", {}, make("strong"), make("p", { class: "todo" }), make("p", { class: "since" })),
    (node, one) => {
      flag(node, "blocking", one.blocking);
      const [what, todo, since] = node.children;
      write(what, one.what);
      write(todo, one.todo);
      todo.hidden = !one.todo;
      const kind = one.blocking ? "changes wait for it" : "changes flow meanwhile";
      since.hidden = Boolean(one.gap);
      if (!one.gap) write(since, `for ${seconds(one.seconds)}, ${count(one.count)} ${one.count === 1 ? "time" : "times"} · ${kind}`);
    }
  );
}

// -- the flow --------------------------------------------------------------------------------------

let former = null; // the last answer, and when it came: rates of what has only a running total
let sinkRates = {};
let stageTimes = {};

function measure(status, now) {
  const again = former !== null && status.uptime_seconds >= former.status.uptime_seconds;
  const passed = again ? (now - former.now) / 1000 : 0;
  const rates = {};
  for (const [name, sink] of Object.entries(status.sinks)) {
    const before = again ? former.status.sinks[name] : undefined;
    // A pipeline that was laid anew counts from the beginning.
    if (before && passed > 0.5 && sink.written >= before.written) rates[name] = (sink.written - before.written) / passed;
    else rates[name] = sinkRates[name] ?? null;
  }
  const times = {};
  for (const [name, stage] of Object.entries(status.stages)) {
    const before = again ? former.status.stages[name] : undefined;
    const times_through = stage.count - (before?.count ?? 0);
    if (times_through > 0) times[name] = (stage.seconds - (before?.seconds ?? 0)) / times_through;
    else times[name] = stageTimes[name] ?? stage.last_seconds;
  }
  sinkRates = rates;
  stageTimes = times;
  former = { status, now };
}

function flows(node, perSecond, blocked) {
  flag(node, "flows", perSecond > 0 && !blocked);
  flag(node, "blocked", blocked);
  // Ten times as much moves twice as fast.
  if (perSecond > 0) node.style.setProperty("--pace", `${Math.max(0.2, 1.2 / (1 + Math.log10(1 + perSecond))).toFixed(2)}s`);
}

function drawFlow(status) {
  const blockedBy = (...keys) => status.trouble.some((one) => one.blocking && keys.includes(one.key));
  const changes = status.rates.changes_per_second;
  const documents = status.rates.documents_per_second;

  write(byId("capture-rate"), rate(changes));
  const slot = status.slot;
  write(byId("capture-slot"), slot.name ? `slot ${slot.name}, WAL ${slot.wal_status || "unknown"}` : "");
  const behind = status.slot_lag_bytes === null || status.slot_lag_bytes === undefined ? "" : `${bytes(status.slot_lag_bytes)} behind`;
  const kept = slot.retained_bytes === null || slot.retained_bytes === undefined ? "" : `${bytes(slot.retained_bytes)} retained`;
  write(byId("capture-wal"), [behind, kept].filter(Boolean).join(", "));
  flows(byId("capture"), changes, blockedBy("source", "source stream", "source transactions"));

  const { changes: held = null, capacity = null } = status.queue;
  write(byId("queue-held"), count(held));
  const full = held === null ? 0 : held / capacity;
  byId("queue-bar").style.width = `${(100 * Math.min(1, full)).toFixed(1)}%`;
  flag(byId("queue-bar"), "full", full > 0.9);
  write(byId("queue-room"), capacity === null ? "" : `room for ${count(capacity)}`);
  flows(byId("queue"), changes, false);

  write(byId("engine-rate"), rate(documents));
  const stages = ["resolve", "build"].filter((name) => name in stageTimes).map((name) => `${name} ${seconds(stageTimes[name])}`);
  write(byId("engine-stages"), stages.length ? stages.join(", ") : "");
  const jobs = status.facts.fan_out?.waiting ?? 0;
  write(byId("engine-jobs"), jobs ? `${plural(jobs, "fan-out job")} under way` : "");
  flows(byId("engine"), changes, blockedBy("source documents", "source visibility"));

  let written = 0;
  const sinks = Object.entries(status.sinks);
  keyed(
    byId("sinks"),
    sinks,
    (name) => make("li", {}, make("b", { textContent: name }), make("span", { class: "rate" }), make("span", { class: "rest" })),
    (node, sink, name) => {
      const blocked = blockedBy(`sink ${name}`);
      flag(node, "blocked", blocked);
      written += sinkRates[name] ?? 0;
      write(node.children[1], `${rate(sinkRates[name])}/s`);
      const parts = [`${count(sink.waiting)} waiting`, `${sink.requests_in_flight} of ${sink.concurrency} requests`];
      if (sink.retries) parts.push(`${count(sink.retries)} sent again`);
      if (blocked) parts.unshift("away");
      write(node.children[2], parts.join(", "));
    }
  );
  flows(byId("sinks-node"), Math.max(written, documents), sinks.length > 0 && sinks.every(([name]) => blockedBy(`sink ${name}`)));
}

// -- indexes ---------------------------------------------------------------------------------------

const MOODS = {
  seeded: "good",
  backfilling: "busy",
  rebuilding: "busy",
  skipped: "warn",
  blind: "warn",
  drifted: "bad",
  stopped: "bad",
  disabled: "",
};

function describeBuild(build) {
  const parts = [];
  if (build.total === null) {
    parts.push(`${plural(build.done, "row")} done`);
  } else {
    const percent = build.total ? Math.min(100, Math.floor((100 * build.done) / build.total)) : 0;
    parts.push(`${percent} %`, `${count(build.done)} of ${build.exact ? "" : "about "}${count(build.total)} rows`);
  }
  parts.push(`${rate(build.rate)} rows/s`);
  if (build.eta_seconds !== null) parts.push(`${seconds(build.eta_seconds)} left`);
  return parts.join(" · ");
}

function makeRow(name) {
  const number = (label) => make("td", { role: "cell", class: "number", "data-label": label });
  const state = make(
    "td",
    { role: "cell", class: "state-cell" },
    make("span", { class: "chip" }),
    make("div", { class: "build", hidden: true }, make("progress", { max: 1 }), make("span")),
    make("p", { class: "why", hidden: true }),
    make("p", { class: "proof", hidden: true })
  );
  state.querySelector("progress").setAttribute("aria-label", `Build of ${name}`);
  const row = make(
    "tr",
    { role: "row" },
    make("th", { role: "rowheader", scope: "row", textContent: name }),
    state,
    number("Documents"),
    number("Written"),
    number("Lag"),
    number("Generation"),
    number("Quarantine")
  );
  if (PRIVATE) {
    const buttons = Object.keys(ACTIONS).map((action) => {
      const button = make("button", { type: "button", textContent: ACTIONS[action].label });
      button.setAttribute("aria-label", `${ACTIONS[action].label}: ${name}`);
      button.dataset.action = action;
      button.addEventListener("click", () => act(action, name, button));
      return button;
    });
    row.append(make("td", { role: "cell", class: "actions" }, make("div", {}, ...buttons)));
  }
  return row;
}

function describeProof(proof) {
  const { state, seen, total, found, compared } = proof;
  if (state === "waiting") return "Is compared with its rows soon";
  if (state === "running") {
    const part = total ? ` ${Math.min(99, Math.floor((100 * seen) / total))} %,` : "";
    return `Is compared with its rows:${part} ${plural(found, "difference")} so far`;
  }
  if (state === "failed") return `Could not be compared with its rows: ${proof.why}`;
  const named = proof.differences.slice(0, 3).map((one) => `${one.id ?? "one"} ${one.kind}${one.path ? ` at ${one.path}` : ""}`);
  const at = clock(new Date(proof.ended));
  return [`Compared at ${at}: ${plural(found, "difference")} in ${plural(compared, "document")}`, ...named, ...proof.notes].join(" · ");
}

function updateRow(row, { proof, ...index }) {
  const [, state, documents, written, lag, generation, quarantine] = row.children;
  const [chip, build, why, proven] = state.children;
  write(chip, index.state);
  chip.dataset.mood = MOODS[index.state] ?? "";
  build.hidden = index.build === null;
  if (index.build !== null) {
    const [bar, text] = build.children;
    if (index.build.total) bar.value = Math.min(1, index.build.done / index.build.total);
    else bar.removeAttribute("value");
    write(text, describeBuild(index.build));
    bar.setAttribute("aria-valuetext", describeBuild(index.build));
  }
  const reasons = [index.reason, index.todo, ...(index.blind ?? [])].filter(Boolean);
  write(why, reasons.join(" · "));
  why.hidden = reasons.length === 0;
  proven.hidden = proof === undefined;
  if (proof !== undefined) {
    write(proven, describeProof(proof));
    proven.dataset.proof = proof.state;
  }
  write(documents, count(index.documents));
  write(written, `${rate(index.documents_per_second)}/s`);
  write(lag, seconds(index.lag_seconds));
  write(generation, index.building ? `${count(index.generation)} → ${index.building}` : count(index.generation));
  write(quarantine, count(index.quarantined));
  quarantine.classList.toggle("parked", index.quarantined > 0);
  written.classList.toggle("quiet", !index.documents_per_second);
  quarantine.classList.toggle("quiet", !index.quarantined);
  if (PRIVATE) {
    for (const button of row.querySelectorAll("button")) button.hidden = !ACTIONS[button.dataset.action].fits(index);
  }
}

function drawIndexes(status) {
  const proofs = status.verify;
  const entries = Object.entries(status.index_details).map(([name, index]) => [name, { ...index, proof: proofs[name] }]);
  keyed(byId("rows"), entries, makeRow, updateRow);
}

// -- what may be asked for, on the private surface -----------------------------------------------------

const ACTIONS = {
  reindex: {
    label: "Rebuild",
    path: "reindex",
    fits: (index) => index.state !== "disabled",
    title: (name) => `Rebuild ${name}?`,
    text: () =>
      "A new generation is built from every row. Readers keep the present one until it is complete, and changes go to both.",
  },
  retry: {
    label: "Retry parked",
    path: "quarantine/retry",
    fits: (index) => index.quarantined > 0,
    title: (name) => `Retry the quarantine of ${name}?`,
    text: (name, index) =>
      `${plural(index?.quarantined ?? 0, "parked document")} of it will be read again, and written if the sink takes them now.`,
  },
  verify: {
    label: "Verify",
    path: "verify",
    fits: (index) => ["seeded", "blind"].includes(index.state),
    title: (name) => `Compare ${name} with its rows?`,
    text: () =>
      "Every row is read and compared with its document, two thousand a second, while changes flow. Nothing is written; what differs is shown here.",
  },
  rollback: {
    label: "Roll back",
    path: "rollback",
    fits: (index) => Object.values(index.sinks).some((sink) => sink.kept > 0),
    title: (name) => `Roll ${name} back?`,
    text: () =>
      "Readers get the generation before this one at once. It shows what was true when it was replaced, and stands still until a fresh one is built.",
  },
};

function ask(action, name) {
  const dialog = byId("ask");
  const index = former?.status.index_details[name];
  write(byId("ask-title"), ACTIONS[action].title(name));
  write(byId("ask-text"), ACTIONS[action].text(name, index));
  write(byId("ask-yes"), ACTIONS[action].label);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function act(action, name, button) {
  if (!(await ask(action, name))) return;
  button.disabled = true;
  say(`${ACTIONS[action].label}: ${name} …`);
  try {
    const answer = await fetch(`${ACTIONS[action].path}?index=${encodeURIComponent(name)}`, {
      method: "POST",
      headers: { Accept: "application/json" },
      signal: AbortSignal.timeout(ACTION_SECONDS * 1000),
    });
    const body = await answer.json();
    say(answer.ok ? body.message : body.error, !answer.ok);
  } catch (error) {
    say(`The daemon gave no answer: ${error.message}`, true);
  } finally {
    button.disabled = false;
    poll();
  }
}

let sayingUntil = 0;

function say(sentence, bad = false) {
  const toast = byId("toast");
  toast.hidden = false;
  write(toast, sentence);
  flag(toast, "bad", bad);
  clearTimeout(sayingUntil);
  sayingUntil = setTimeout(() => (toast.hidden = true), bad ? 20000 : 8000);
}

// -- the last hour ---------------------------------------------------------------------------------

const SERIES = {
  lag_seconds: { name: "Lag", write: seconds, least: 0.05 },
  lag_bytes: { name: "WAL behind", write: bytes, least: 64 * 1024 },
  changes_per_second: { name: "Changes", write: (n) => `${rate(n)}/s`, least: 1 },
  documents_per_second: { name: "Documents", write: (n) => `${rate(n)}/s`, least: 1 },
};
const HOUR = 3600;
const SVG = "http://www.w3.org/2000/svg";

let hour = { columns: [], points: [], interval_seconds: 10 };
let plotted = []; // [Unix time, value] of what is drawn, oldest first
let place = null; // turns such a pair into x and y

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// The next "round" number at or above n: in bytes powers of two, in seconds those of a clock, else 1, 2, 5.
function ceiling(n, key) {
  if (key === "lag_bytes") return 2 ** Math.ceil(Math.log2(n));
  if (key === "lag_seconds" && n > 10) return [20, 30, 60, 120, 300, 600, 1200, 1800, 3600].find((top) => top >= n) ?? Math.ceil(n / 3600) * 3600;
  const power = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= n * 0.999);
}

function drawChart() {
  const key = document.querySelector("input[name=series]:checked").value;
  const series = SERIES[key];
  const column = hour.columns.indexOf(key);
  const until = Date.now() / 1000;
  const from = until - HOUR;
  plotted = hour.points.filter((point) => point[0] >= from && point[column] !== null).map((point) => [point[0], point[column]]);
  const svg = byId("plot");
  const empty = plotted.length < 2;
  byId("chart-empty").hidden = !empty;
  byId("scrub").hidden = empty;
  svg.replaceChildren();
  if (empty) {
    svg.setAttribute("aria-label", "Nothing to show yet");
    write(byId("reading"), "\u00a0");
    return;
  }
  const { width, height } = byId("chart").getBoundingClientRect();
  const size = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const [left, right, top, bottom] = [4.3 * size, 0.4 * size, 0.5 * size, 1.6 * size];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const most = ceiling(Math.max(series.least, ...plotted.map(([, value]) => value)), key);
  // A young daemon fills its chart too: never less than five minutes, never more than the hour.
  const since = Math.max(from, Math.min(plotted[0][0], until - 300));
  const x = (at) => left + ((at - since) / (until - since)) * (width - left - right);
  const y = (value) => height - bottom - (value / most) * (height - top - bottom);
  place = ([at, value]) => [x(at), y(value)];
  for (const part of [0, 0.5, 1]) {
    const line = y(most * part);
    svg.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: line, y2: line }));
    svg.append(shape("text", { class: "tick", x: left - 0.5 * size, y: line + 0.25 * size, "text-anchor": "end" }, series.write(most * part)));
  }
  const span = until - since;
  const step = [60, 120, 300, 600, 900].find((one) => span / one <= (width < 30 * size ? 3.2 : 6.5)) ?? 1200;
  for (let at = Math.ceil(since / step) * step; at < until - step / 5; at += step) {
    const label = new Date(at * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
    if (x(at) > left + size) svg.append(shape("text", { class: "tick", x: x(at), y: height - 0.2 * size, "text-anchor": "middle" }, label));
  }
  svg.append(shape("text", { class: "tick", x: width - right, y: height - 0.2 * size, "text-anchor": "end" }, "now"));
  // Where nobody measured, nothing is drawn.
  const pieces = [];
  plotted.forEach((point, number) => {
    const joined = number > 0 && point[0] - plotted[number - 1][0] <= 3.5 * hour.interval_seconds;
    if (joined) pieces[pieces.length - 1].push(point);
    else pieces.push([point]);
  });
  for (const piece of pieces) {
    const line = piece.map((point) => place(point).map((n) => n.toFixed(1)).join(",")).join("L");
    const [first] = place(piece[0]);
    const [last] = place(piece[piece.length - 1]);
    svg.append(shape("path", { class: "area", d: `M${first.toFixed(1)},${y(0)}L${line}L${last.toFixed(1)},${y(0)}Z` }));
    svg.append(shape("path", { class: "curve", d: `M${line}${piece.length === 1 ? "h0.1" : ""}` }));
  }
  const worst = plotted.reduce((one, other) => (other[1] > one[1] ? other : one));
  const summary = `${series.name}, now ${series.write(plotted[plotted.length - 1][1])}, at most ${series.write(worst[1])} at ${clock(new Date(worst[0] * 1000))}`;
  svg.setAttribute("aria-label", summary);
  const scrub = byId("scrub");
  const following = Number(scrub.value) >= Number(scrub.max);
  scrub.max = String(plotted.length - 1);
  if (following) scrub.value = scrub.max;
  drawReading(summary);
}

let pointed = false; // somebody points at a moment, or moved there by keyboard

function drawReading(summary) {
  const svg = byId("plot");
  svg.querySelectorAll(".cross, .spot").forEach((node) => node.remove());
  const scrub = byId("scrub");
  const point = plotted[Number(scrub.value)];
  const series = SERIES[document.querySelector("input[name=series]:checked").value];
  const text = point ? `${clock(new Date(point[0] * 1000))}: ${series.write(point[1])}` : "";
  scrub.setAttribute("aria-valuetext", text);
  if (!pointed || !point) {
    if (summary) write(byId("reading"), summary);
    return;
  }
  const [x, y] = place(point);
  const bottom = place([point[0], 0])[1];
  svg.append(shape("line", { class: "cross", x1: x, x2: x, y1: 4, y2: bottom }));
  svg.append(shape("circle", { class: "spot", cx: x, cy: y, r: 4 }));
  write(byId("reading"), text);
}

function listenToChart() {
  const scrub = byId("scrub");
  const point = (event) => {
    const box = scrub.getBoundingClientRect();
    const at = event.clientX - box.left;
    let nearest = 0;
    plotted.forEach((one, number) => {
      if (Math.abs(place(one)[0] - at) < Math.abs(place(plotted[nearest])[0] - at)) nearest = number;
    });
    scrub.value = String(nearest);
    pointed = true;
    drawReading();
  };
  scrub.addEventListener("pointermove", point);
  scrub.addEventListener("pointerdown", (event) => {
    event.preventDefault(); // the place of the pointer decides, not the thumb
    scrub.focus();
    point(event);
  });
  scrub.addEventListener("pointerleave", () => {
    pointed = document.activeElement === scrub && scrub.matches(":focus-visible");
    drawChart();
  });
  scrub.addEventListener("input", () => {
    pointed = true;
    drawReading();
  });
  scrub.addEventListener("blur", () => {
    pointed = false;
    drawChart();
  });
  for (const choice of document.querySelectorAll("input[name=series]")) choice.addEventListener("change", drawChart);
  new ResizeObserver(drawChart).observe(byId("chart"));
}

// -- lately, and inside ------------------------------------------------------------------------------

function drawEvents(status) {
  const events = status.events.map((event, number) => [`${event.at} ${event.kind} ${event.text} ${status.events.slice(number + 1).filter((one) => one.at === event.at && one.text === event.text).length}`, event]);
  keyed(
    byId("events"),
    events,
    () => make("li", {}, make("time"), make("span")),
    (node, event) => {
      node.dataset.kind = event.kind;
      node.children[0].dateTime = event.at;
      node.children[0].title = new Date(event.at).toLocaleString("en-GB");
      write(node.children[0], clock(new Date(event.at)));
      write(node.children[1], event.text);
    }
  );
}

function drawInside(status) {
  pairs(
    byId("threads"),
    status.threads.map((thread) => [
      thread.name,
      {
        text: thread.seconds_ago < 1 ? "now" : `${seconds(thread.seconds_ago)} ago`,
        late: thread.within_seconds !== null && thread.seconds_ago > thread.within_seconds,
      },
    ])
  );
  const { slot } = status;
  const known = (name, value, text) => (value === null || value === undefined ? [] : [[name, text(value)]]);
  pairs(byId("source"), [
    ...known("Slot", slot.name, String),
    ...known("WAL status", slot.wal_status, String),
    ...known("WAL retained", slot.retained_bytes, bytes),
    ...known("WAL until the slot is lost", slot.safe_wal_bytes, bytes),
    ...known("WAL behind", status.slot_lag_bytes, bytes),
    ...known("Confirmed up to", status.confirmed_lsn, String),
    ...known("Read by PID", slot.active_pid, String),
    ...known("Connections that build", status.connections.documents, count),
    ["Waits for visibility", `${count(status.visibility.waits)}, ${seconds(status.visibility.seconds)} in all`],
  ]);
  const stages = Object.entries(status.stages).map(([name, stage]) => [`Stage ${name}`, `${seconds(stage.count ? stage.seconds / stage.count : 0)} on average`]);
  pairs(byId("counters"), [
    ["Changes captured", count(status.changes_captured)],
    ["Changes ignored", count(status.changes_ignored)],
    ["Documents written", count(status.documents_built)],
    ["Builds spared", count(status.documents_deduplicated)],
    ["Batches", count(status.batches)],
    ["Documents parked", count(status.documents_quarantined)],
    ["Pipelines that ended badly", count(status.errors)],
    ...stages,
  ]);
}

// -- asking ----------------------------------------------------------------------------------------

let answered = null; // when the last answer came
let timer = 0;
let historyAt = 0;
let asking = false;

async function fetchJson(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_SECONDS * 1000) });
  if (!answer.ok) throw new Error(`the daemon answered ${answer.status}`);
  return answer.json();
}

function drawSilence(error) {
  document.body.dataset.stale = "";
  byId("state").dataset.mood = "unknown";
  write(byId("phase"), "No answer");
  const since = answered === null ? "" : ` for ${seconds((Date.now() - answered) / 1000)}`;
  const why = error instanceof TypeError ? "nobody listens there" : error.name === "TimeoutError" ? "it takes too long" : error.message;
  write(byId("sentence"), `The daemon has not answered${since} (${why}). It may be restarting; this page goes on asking.`);
  document.title = "No answer · flusso-sync";
}

async function poll() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    const status = await fetchJson("status");
    const restarted = former !== null && status.uptime_seconds < former.status.uptime_seconds;
    answered = Date.now();
    delete document.body.dataset.stale;
    measure(status, performance.now());
    for (const draw of [drawState, drawTroubles, drawFlow, drawIndexes, drawEvents, drawInside]) draw(status);
    if (restarted || performance.now() >= historyAt) {
      historyAt = performance.now() + HISTORY_SECONDS * 1000;
      hour = await fetchJson("history");
      drawChart();
    }
  } catch (error) {
    drawSilence(error);
  } finally {
    asking = false;
    timer = setTimeout(poll, 1000 * (document.hidden ? HIDDEN_SECONDS : POLL_SECONDS));
  }
}

document.addEventListener("visibilitychange", () => document.hidden || poll());
listenToChart();
poll();
