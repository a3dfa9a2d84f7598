// Asks the demo how it is and what a search finds, and draws it.  Text goes in as text, never as HTML.
"use strict";

const STATE_SECONDS = 0.6;
const HASTE_SECONDS = 0.12; // while a change is on its way, or something comes back
const SEARCH_SECONDS = 1.0;
const BUSY_SECONDS = 0.5; // while the writer is on
const HIDDEN_SECONDS = 15; // nobody looks at a tab in the background
const ANSWER_SECONDS = 10;
const FLASH_SECONDS = 2.4;
const FOLD_BEYOND = 3; // things of a list that are shown at once
const MOST_IN_TOAST = 3; // documents

const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));
const millis = (n) => (n === null ? "–" : n < 1000 ? `${n < 10 ? tenths.format(n) : whole.format(n)} ms` : `${tenths.format(n / 1000)} s`);
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

// -- small things with nodes -----------------------------------------------------------------------

function write(node, text) {
  // Only what changed: screen readers and selections are left alone.
  if (node.textContent !== text) node.textContent = text;
}

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value);
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
    if (node === undefined) known.set(key, (node = create(value, key)));
    update(node, value, key);
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
  });
}

// Moving a node, or putting another in its place, takes the focus from what is in it: `draw`, and give it back.
function keepingFocus(draw) {
  const had = document.activeElement;
  const [card, path, inRows] = [had.closest(".card"), had.closest("summary")?.parentElement.dataset.path, had.closest("#tables")];
  draw();
  if (document.activeElement === had) return;
  if (had.isConnected) return had.focus({ preventScroll: true });
  const again = [...(card?.querySelectorAll("details") ?? [])].find((one) => one.dataset.path === path)?.firstElementChild;
  if (card) (again ?? (card.isConnected ? card : byId("cards")).querySelector(".pick") ?? byId("words")).focus({ preventScroll: true });
  // What was pressed is gone with its row.
  else if (inRows) byId("rows-title").focus();
}

// A button that can do nothing now, but keeps the focus.
const isResting = (button) => button.getAttribute("aria-disabled") === "true";
function rest(button, resting) {
  if (isResting(button) !== resting) button.setAttribute("aria-disabled", String(resting));
}

const inSight = (node) => {
  const { top, bottom } = node.getBoundingClientRect();
  return top >= 0 && bottom <= innerHeight;
};

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_SECONDS * 1000) });
  if (!answer.ok) throw new Error(`the demo answered ${answer.status}`);
  return answer.json();
}

async function tell(path, what) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(what),
    signal: AbortSignal.timeout(ANSWER_SECONDS * 1000),
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error ?? `the demo answered ${answer.status}`);
  return said;
}

let toastTimer = 0;
function toast(text) {
  write(byId("toast"), text);
  byId("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (byId("toast").hidden = true), 5000);
}

// -- a document as a tree ------------------------------------------------------------------------------

const isNumber = (value) => value !== null && typeof value === "object" && typeof value["#"] === "string" && Object.keys(value).length === 1;

// Without accents and case, character by character, so that places in it are places in the text.
const fold = (text) => [...text].map((one) => one.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().slice(0, 1) || one);

function wordsOf(query) {
  const words = fold(query).join("").match(/[\p{L}\p{N}_]+/gu) ?? [];
  return words.map((word, place) => ({ word, open: place === words.length - 1 && /[\p{L}\p{N}_]$/u.test(query) }));
}

const inWord = (one) => one !== undefined && /[\p{L}\p{N}_]/u.test(one);

// The text with what was searched for marked.
function marked(text, words) {
  const letters = [...text];
  const folded = fold(text);
  const parts = [];
  let plain = "";
  for (let at = 0; at < letters.length; ) {
    const found = inWord(folded[at - 1]) ? undefined : words.find(({ word, open }) => folded.slice(at, at + word.length).join("") === word && (open || !inWord(folded[at + word.length])));
    if (found) {
      if (plain) parts.push(plain);
      plain = "";
      parts.push(make("mark", { textContent: letters.slice(at, at + found.word.length).join("") }));
      at += found.word.length;
    } else {
      plain += letters[at];
      at += 1;
    }
  }
  if (plain) parts.push(plain);
  return parts;
}

function keyOf(item, place) {
  if (item !== null && typeof item === "object" && isNumber(item.id)) return item.id["#"];
  return item !== null && typeof item === "object" && Object.keys(item).length === 1 ? JSON.stringify(item) : String(place);
}

const isFlat = (list) => list.length > 0 && list.every((item) => item !== null && typeof item === "object" && Object.values(item).length === 1 && typeof Object.values(item)[0] === "string" && Object.values(item)[0].length < 24);

// `leaves` gets path -> text of every value drawn; those that `former` holds otherwise are marked as new.
class Tree {
  constructor(words, former, open) {
    this.words = words;
    this.former = former;
    this.open = open;
    this.leaves = new Map();
  }

  leaf(node, path, text) {
    this.leaves.set(path, text);
    if (this.former !== null && this.former.get(path) !== text) node.classList.add("now");
    return node;
  }

  value(value, path) {
    if (value === null) return this.leaf(make("span", { class: "none", textContent: "null" }), path, "null");
    if (isNumber(value)) return this.leaf(make("span", {}, ...marked(value["#"], this.words)), path, value["#"]);
    if (Array.isArray(value)) return this.list(value, path);
    if (typeof value === "object") return this.object(value, path);
    return this.leaf(make("span", {}, ...marked(String(value), this.words)), path, String(value));
  }

  object(value, path) {
    const list = make("dl", { class: "tree" });
    for (const [name, one] of Object.entries(value)) {
      const deep = one !== null && typeof one === "object" && !isNumber(one) && !(Array.isArray(one) && (one.length === 0 || isFlat(one)));
      const term = make("dt", { textContent: Array.isArray(one) && deep ? `${name} (${one.length})` : name });
      const told = make("dd", {}, this.value(one, `${path}.${name}`));
      if (deep) {
        term.className = told.className = "deep";
        if (Array.isArray(one)) this.leaf(term, `${path}.${name}#`, String(one.length));
      }
      list.append(term, told);
    }
    return list;
  }

  list(value, path) {
    if (value.length === 0) return this.leaf(make("span", { class: "none", textContent: "none" }), path, "[]");
    const items = value.map((item, place) => make("li", {}, isFlat(value) ? this.value(Object.values(item)[0], `${path}[${keyOf(item, place)}]`) : this.value(item, `${path}[${keyOf(item, place)}]`)));
    const shown = make("ol", { class: isFlat(value) ? "flat" : "" }, ...items.slice(0, isFlat(value) ? items.length : FOLD_BEYOND));
    if (shown.children.length === items.length) return shown;
    const rest = make("details", { open: this.open.has(path) }, make("summary", { textContent: `${items.length - FOLD_BEYOND} more` }), make("ol", {}, ...items.slice(FOLD_BEYOND)));
    rest.setAttribute("data-path", path);
    return make("div", {}, shown, rest);
  }
}

// -- documents ---------------------------------------------------------------------------------------

let chosen = null; // {index, id}
let drawn = null; // the document whose rows are shown; a moment behind `chosen`
let others = {}; // ids to begin with where something is moved
let timings = new Map(); // "index/id" -> the last change found there, in milliseconds
let found = []; // documents that are shown, the chosen one first
let away = false; // the index does not answer
let going = false; // to the rows, as soon as they are those of the chosen one
const oneColumn = matchMedia("(max-width: 60rem)");

const nameOf = ({ index, id }) => `${index}/${id}`;

function titleOf({ index, document }) {
  if (!document) return "";
  if (index === "orders") return document.user ? document.user.name : "";
  return document.name ?? "";
}

function makeCard(found) {
  const pick = make("button", { type: "button", class: "pick" });
  pick.addEventListener("click", () => choose(found.index, found.id, false));
  return make("li", { class: "card" }, make("header", {}, make("h3", {}, pick, make("span")), make("span", { class: "chip ms", hidden: true })), make("div"));
}

function drawCard(node, found, words) {
  const [header, body] = node.children;
  const [heading, ms] = header.children;
  const [pick, title] = heading.children;
  write(pick, nameOf(found));
  write(title, titleOf(found) ? ` · ${titleOf(found)}` : "");
  const isChosen = chosen !== null && nameOf(chosen) === nameOf(found);
  pick.setAttribute("aria-pressed", String(isChosen));
  node.toggleAttribute("data-chosen", isChosen);
  node.toggleAttribute("data-gone", !found.document);
  const state = JSON.stringify([found.document, words]);
  if (node.state !== state) {
    const content = JSON.stringify(found.document);
    const changed = node.content !== undefined && node.content !== content;
    const open = new Set([...body.querySelectorAll("details[open]")].map((one) => one.dataset.path));
    const tree = new Tree(words, changed ? node.leaves : null, open);
    body.replaceChildren(found.document ? tree.object(found.document, "") : make("p", { class: "hint", textContent: "There is no such document any more." }));
    if (changed) flash(node);
    Object.assign(node, { state, content, leaves: tree.leaves });
  }
  const told = timings.get(nameOf(found));
  ms.hidden = told === undefined;
  if (told !== undefined) write(ms, `found after ${millis(told)}`);
}

function flash(node) {
  delete node.dataset.flash;
  void node.offsetWidth; // begin the animation anew
  node.dataset.flash = "";
  clearTimeout(node.flashTimer);
  node.flashTimer = setTimeout(() => {
    delete node.dataset.flash;
    node.querySelectorAll(".now").forEach((one) => one.classList.remove("now"));
  }, FLASH_SECONDS * 1000);
}

let searching = false;
let searchAgain = false;
let searchTimer = 0;

async function search() {
  if (searching) {
    searchAgain = true;
    return;
  }
  searching = true;
  clearTimeout(searchTimer);
  const query = byId("words").value;
  const index = document.querySelector("input[name=which]:checked").value;
  try {
    const { documents, away: silent } = await ask(`search?${new URLSearchParams({ q: query, index })}`);
    if (chosen === null && documents.length) chosen = { index: documents[0].index, id: documents[0].id };
    const asked = chosen;
    const own = asked && (await ask(`document?${new URLSearchParams(asked)}`));
    away = silent || (own !== null && own.away);
    // What was found stays while the index is away.  The chosen one stays in sight, also when no word finds it any more.
    if (!away) found = own !== null && asked === chosen ? [own, ...documents.filter((one) => nameOf(one) !== nameOf(own))] : documents;
    const words = wordsOf(query);
    keepingFocus(() => {
      if (own !== null && asked === chosen) drawRows(own);
      byId("cards").toggleAttribute("data-away", away);
      keyed(byId("cards"), found.map((one) => [nameOf(one), one]), makeCard, (node, one) => drawCard(node, one, words));
    });
    if (going && asked === chosen) {
      going = false;
      byId("rows-title").focus({ preventScroll: oneColumn.matches });
      if (oneColumn.matches) byId("rows-title").scrollIntoView();
    }
    write(byId("found-note"), away ? `the index does not answer${found.length ? "; this is what it found last" : ""}` : words.length === 0 ? "write a word" : documents.length ? "the best matches" : "nothing matches");
    drawIndex();
  } catch (error) {
    drawSilence(error);
  } finally {
    searching = false;
    const busy = last !== null && last.writer.on;
    searchTimer = setTimeout(search, searchAgain ? 0 : 1000 * (document.hidden ? HIDDEN_SECONDS : busy ? BUSY_SECONDS : SEARCH_SECONDS));
    searchAgain = false;
  }
}

function choose(index, id, go) {
  chosen = { index, id };
  // In one column the rows are far below their document.
  going = go || oneColumn.matches;
  search();
}

// -- rows --------------------------------------------------------------------------------------------

const STATUSES = ["new", "paid", "shipped", "delivered", "cancelled"];

const INTO = {
  orders: "One row of orders, the customer it belongs to, its items with their products, its notes. Change any of them.",
  users: "The customer's row and the orders that the document counts and lists.",
  products: "The product's row, its tags by way of product_tags, the items that sold it.",
};

// What can be done with a row: kind, words on the button, and what is asked for.
const ACTS = {
  users: () => [{ kind: "rename_user", label: "Rename", field: "name", text: "New name" }],
  orders: () => [
    { kind: "set_status", label: "Set status", field: "status", choices: STATUSES, text: "Status" },
    { kind: "move_order", label: "Give to user", other: "user", text: "Id of another user" },
    { kind: "delete_order", label: "Delete", risky: true },
  ],
  items: () => [
    { kind: "move_item", label: "Move to order", other: "order", text: "Id of another order" },
    { kind: "delete_item", label: "Delete", risky: true },
  ],
  products: () => [
    { kind: "rename_product", label: "Rename", field: "name", text: "New name" },
    { kind: "set_price", label: "Set price", field: "price", text: "New price", decimal: true },
  ],
  notes: () => [{ kind: "delete_note", label: "Delete", risky: true }],
  tags: () => [
    { kind: "rename_tag", label: "Rename", field: "label", text: "New label" },
    { kind: "delete_tag", label: "Delete", risky: true },
  ],
  product_tags: () => [{ kind: "remove_tag", label: "Remove", risky: true, ids: ["product_id", "tag_id"] }],
};

// What can be done with a table, beside the document of an order.
const TABLE_ACTS = {
  items: [{ kind: "add_item", label: "Add product", other: "product", text: "Id of a product" }],
  notes: [
    { kind: "add_note", label: "Write note", value: "Please wrap it in blue paper.", text: "A note" },
    { kind: "truncate_notes", label: "TRUNCATE notes", risky: true },
  ],
};

function makeAct(act, row, place) {
  const form = make("form", {});
  let input = null;
  if (act.choices) input = make("select", {}, ...act.choices.map((one) => make("option", { value: one, textContent: one })));
  else if (act.text) input = make("input", { type: "text", autocomplete: "off", spellcheck: false, maxLength: 200 });
  if (input) {
    if (act.other) input.inputMode = "numeric";
    if (act.decimal) input.inputMode = "decimal";
    input.setAttribute("aria-label", `${act.text}: ${place}`);
    input.addEventListener("input", () => (input.touched = true));
    form.append(input);
  }
  const button = make("button", { type: "submit", textContent: act.label, class: act.risky ? "risky" : "" });
  button.setAttribute("aria-label", `${act.label}: ${place}`);
  form.append(button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isResting(button)) return;
    const what = { kind: act.kind };
    const [id, other] = act.ids ?? ["id"];
    if (row !== null) what.id = form.row[id];
    else if (drawn !== null) what.id = drawn.id;
    if (other) what.other = form.row[other];
    if (act.other) what.other = input.value;
    else if (input) what.value = input.value;
    change(what, button).then((done) => done && input && (input.touched = false));
  });
  form.setAttribute("data-kind", act.kind);
  Object.assign(form, { act, input });
  return form;
}

function drawAct(form, row) {
  form.row = row;
  const { act, input } = form;
  if (!input || input.touched || document.activeElement === input) return;
  const value = act.field ? row[act.field] : act.other ? String(others[act.other] ?? "") : act.value;
  if (input.value !== value) input.value = value ?? "";
}

function rowKey(table, row) {
  return table === "product_tags" ? `${row.product_id}:${row.tag_id}` : row.id;
}

function drawRows(own) {
  write(byId("rows-title"), `Rows of ${nameOf(own)}`);
  others = own.others;
  drawn = own;
  if (own.tables === null) {
    write(byId("rows-hint"), "Postgres does not answer now, so no row can be read or changed. Search goes on.");
    return;
  }
  write(byId("rows-hint"), INTO[own.index]);
  keyed(
    byId("tables"),
    own.tables.map((table) => [`${own.index} ${table.table}`, table]),
    (table) => {
      const acts = own.index === "orders" ? TABLE_ACTS[table.table] ?? [] : [];
      const forms = acts.map((act) => makeAct(act, null, table.table));
      return make("section", { class: "table", "aria-label": `Table ${table.table}` }, make("h3", { textContent: table.table }), make("div"), make("p", { class: "hint" }), make("div", { class: "acts" }, ...forms));
    },
    (node, table) => {
      const [, rows, more, acts] = node.children;
      keyed(
        rows,
        table.rows.map((row) => [rowKey(table.table, row), row]),
        (row, key) => make("div", { class: "row" }, make("div", { class: "cells" }), make("div", { class: "acts" }, ...ACTS[table.table](row).map((act) => makeAct(act, row, `${table.table} ${key}`)))),
        (line, row) => {
          const [cells, forms] = line.children;
          keyed(
            cells,
            Object.entries(row),
            (value, name) => make("span", {}, make("b", { textContent: `${name} ` }), make("span")),
            (cell, value) => write(cell.lastChild, value ?? "null")
          );
          for (const form of forms.children) drawAct(form, row);
        }
      );
      write(more, table.more ? `and ${table.more} more` : table.rows.length ? "" : "no row");
      more.hidden = !more.textContent;
      for (const form of acts.children) drawAct(form, {});
      acts.hidden = acts.children.length === 0;
    }
  );
}

let ownChange = null; // the number of the last one made here, until it is told to be found

async function change(what, button) {
  rest(button, true);
  try {
    const entry = await tell("change", what);
    ownChange = entry.number;
    if (entry.found_ms === null) toast("Committed; not found yet.");
    await poll();
    await search();
    return true;
  } catch (error) {
    toast(error.message);
    return false;
  } finally {
    rest(button, false);
  }
}

// -- what changed ------------------------------------------------------------------------------------

function drawFeed(feed) {
  byId("feed-hint").hidden = feed.length > 0;
  for (const entry of [...feed].reverse()) {
    if (entry.found_ms !== null) for (const one of entry.documents) timings.set(nameOf(one), entry.found_ms);
  }
  keyed(
    byId("feed"),
    feed.map((entry) => [entry.number, entry]),
    (entry) =>
      make("li", {}, make("header", {}, make("strong", { textContent: entry.title }), make("span", { class: "chip" })), make("code", { textContent: entry.statement }), make("ul"), make("p", { class: "hint" }), make("p", { class: "because", textContent: entry.because })),
    (node, entry) => {
      const [header, , list, note] = node.children;
      const chip = header.lastChild;
      const found = entry.found_ms !== null;
      chip.className = found ? "chip ms" : "chip";
      chip.dataset.mood = found ? "good" : "busy";
      write(chip, found ? `found after ${millis(entry.found_ms)}` : `on its way, ${millis(entry.waiting_ms)}`);
      if (found && !node.drawn) {
        node.drawn = true;
        list.append(...entry.documents.map(drawTold));
        const told = [];
        if (entry.more) told.push(`and ${plural(entry.more, "document")} more`);
        if (entry.alike) told.push(`${plural(entry.alike, "document")} that ${entry.alike === 1 ? "knows" : "know"} the row looked the same afterwards`);
        if (entry.kind === "truncate_notes") told.push("orders was built anew; readers had the former documents until then");
        note.textContent = told.join("; ");
      }
      list.hidden = list.children.length === 0;
      note.hidden = !note.textContent;
    }
  );
  const own = feed.find((entry) => entry.number === ownChange);
  if (own === undefined || own.found_ms === null) return;
  ownChange = null;
  const more = own.documents.length - MOST_IN_TOAST + own.more;
  const names = own.documents.slice(0, MOST_IN_TOAST).map(nameOf).join(", ");
  if (!inSight(byId("feed").firstElementChild.firstElementChild)) toast(`found after ${millis(own.found_ms)}${names && `: ${names}`}${more > 0 ? ` and ${more} more` : ""}`);
}

function drawTold(one) {
  const link = make("button", { type: "button", textContent: nameOf(one) });
  link.addEventListener("click", () => choose(one.index, one.id, true));
  const fields = one.fields.join(", ");
  const where = one.state === "gone" ? " is gone" : !fields ? " is the row's own document" : one.state === "new" ? ` has it now, in ${fields}` : ` shows it in ${fields}`;
  const node = make("li", {}, link, where);
  for (const { path, before, after } of one.changes.slice(0, one.state === "gone" ? 0 : undefined)) {
    const line = make("div", {}, make("code", { textContent: path }));
    if (before) line.append(" ", make("del", { textContent: before }));
    if (after) line.append(" ", make("ins", { textContent: after }));
    node.append(line);
  }
  return node;
}

// -- what runs ---------------------------------------------------------------------------------------

let last = null;

function drawService(name, word, mood, note) {
  byId(name).dataset.mood = mood;
  write(byId(`${name}-word`), word);
  write(byId(`${name}-note`), note);
}

function drawState(state) {
  const { postgres, daemon, writer } = state;
  const back = (service) => `back in ${Math.ceil(service.back_in_seconds)} s`;
  if (postgres.running) drawService("postgres", "Running", "good", "The rows");
  else drawService("postgres", `Stopped, ${back(postgres)}`, "bad", "Rows cannot be changed; what is found stays found.");
  rest(byId("stop-postgres"), !postgres.running);

  const status = daemon.status;
  rest(byId("kill-daemon"), !daemon.running);
  byId("dashboard").hidden = status === null;
  byId("dashboard").href = daemon.dashboard;
  if (!daemon.running) drawService("daemon", `Dead, ${back(daemon)}`, "bad", `${daemon.why}. Change rows meanwhile: nothing is lost.`);
  else if (status === null) drawService("daemon", "Starting", "busy", `process ${daemon.pid}; it goes on where it was`);
  else if (!status.ready) drawService("daemon", "Held up", "warn", status.reason);
  else drawService("daemon", status.phase === "live" ? "Live" : "Building", status.phase === "live" ? "good" : "busy", `process ${daemon.pid}, ${status.lag_seconds ? `${millis(status.lag_seconds * 1000)} behind` : "nothing waits"}`);

  drawIndex();

  byId("writer-switch").setAttribute("aria-checked", String(writer.on));
  write(byId("writer-rate"), count(writer.on ? writer.per_second : 0));
  const times = writer.median_ms === null ? "measuring" : `found after ${millis(writer.median_ms)}, at most ${millis(writer.worst_ms)}`;
  write(byId("writer-note"), writer.on ? `${times}; ${count(writer.made)} made` : writer.made ? `Off; ${count(writer.made)} made` : "Off");
  byId("writer").dataset.mood = writer.on ? "busy" : "";
  drawProof(state.verify);
  drawFeed(state.feed);
}

function drawIndex() {
  if (away) return drawService("index", "No answer", "bad", "The index does not answer; what waits for it is not lost.");
  const status = last?.daemon.status ?? null;
  if (status === null) return;
  const entries = Object.entries(status.indexes);
  const building = entries.filter(([, index]) => index.state !== "seeded").map(([name]) => name);
  const word = building.length ? `Building ${building.join(", ")}` : count(entries.reduce((sum, [, index]) => sum + (index.documents ?? 0), 0));
  drawService("index", word, building.length ? "busy" : "good", entries.map(([name, index]) => `${count(index.documents)} ${name}`).join(", "));
}

function drawProof(verify) {
  const line = byId("proof");
  line.hidden = verify.state === "never";
  rest(byId("verify"), verify.state === "running");
  if (verify.state === "running") {
    line.dataset.mood = "busy";
    write(line, "flussod verify compares every document with its rows, while both change …");
  } else if (verify.state === "failed") {
    line.dataset.mood = "bad";
    write(line, `flussod verify could not do its work: ${verify.reason}`);
  } else if (verify.state === "done") {
    line.dataset.mood = verify.differences ? "bad" : "good";
    const unsettled = verify.unsettled ? `; ${plural(verify.unsettled, "document")} changed at every look` : "";
    const unsure = verify.differences && !verify.settled ? " (the daemon was away: what is on its way may be among them)" : "";
    write(line, `flussod verify: ${plural(verify.differences, "difference")} between rows and ${plural(verify.documents, "document")}, in ${tenths.format(verify.seconds)} s${unsettled}${unsure}`);
  }
}

function drawSilence(error) {
  for (const name of ["postgres", "daemon", "index"]) byId(name).dataset.mood = "";
  drawService("daemon", "No answer", "bad", error instanceof TypeError ? "The demo has ended, or this page is from an earlier one." : error.message);
}

let polling = null;
let pollTimer = 0;

function poll() {
  polling ??= pollOnce().finally(() => (polling = null));
  return polling;
}

async function pollOnce() {
  clearTimeout(pollTimer);
  let haste = false;
  try {
    const state = await ask("state");
    const waited = last !== null && last.feed.some((entry) => entry.found_ms === null);
    haste = state.feed.some((entry) => entry.found_ms === null) || !state.daemon.running || !state.postgres.running;
    last = state;
    drawState(state);
    if (waited && !state.feed.some((entry) => entry.found_ms === null)) search();
  } catch (error) {
    drawSilence(error);
  } finally {
    pollTimer = setTimeout(poll, 1000 * (document.hidden ? HIDDEN_SECONDS : haste ? HASTE_SECONDS : STATE_SECONDS));
  }
}

function press(id, path, what) {
  byId(id).addEventListener("click", () => {
    if (isResting(byId(id))) return;
    tell(path, what()).then(poll, (error) => toast(error.message));
  });
}

press("kill-daemon", "end", () => ({ what: "daemon" }));
press("stop-postgres", "end", () => ({ what: "postgres" }));
press("verify", "verify", () => ({}));
press("writer-switch", "writer", () => ({ on: byId("writer-switch").getAttribute("aria-checked") !== "true" }));
byId("words").addEventListener("input", () => search());
for (const choice of document.querySelectorAll("input[name=which]")) choice.addEventListener("change", () => search());
document.addEventListener("visibilitychange", () => document.hidden || (poll(), search()));
poll();
search();
