// Shows a result: its texts with marked entities, its table, the labels with their thresholds; and corrects entities.

let result = null; // {source, kind, docs: [{id, text, characters, entities, error}]}; kind is "" for one text
const off = new Set(); // hidden labels
const floors = new Map(); // label -> minimum score, where it is not that of all
const shownCounts = new Map(); // label -> the element that shows its count
let links = new Map(); // entity -> its marks and its row of the table
let sorting = { key: null, down: false };
let most = 1; // a page holds 200 texts and 2,000 rows of the table
let chosen = null; // what is being corrected: {doc, start, end, entity}; entity is null for a new one
const descriptions = new Map(), hues = new Map();

function learnLabels(labels) {
  for (const [label, description] of Object.entries(labels)) descriptions.set(label, description);
  [...descriptions.keys()].forEach((label, i, all) => hues.set(label, Math.round((360 * i) / all.length)));
}
learnLabels(about.labels);

const scoreOf = (e) => e.score ?? 1;
const aboveFloor = (e) => scoreOf(e) >= (floors.get(e.label) ?? Number(at("floor").value));
const isShown = (e) => aboveFloor(e) && !off.has(e.label);

function make(tag, text, parent, className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  parent.append(element);
  return element;
}

function colour(element, label) {
  element.style.setProperty("--h", hues.get(label) ?? 0);
  return element;
}

// What a new result, or a corrected one, changes: the labels too.
function showResult() {
  closeEditor();
  showLabels();
  show();
  at("found").hidden = false;
  markStale();
}

function show() {
  if (!result) return;
  const all = result.docs.flatMap((doc) => doc.entities);
  const found = all.filter(isShown), hidden = all.length - found.length;
  at("least").textContent = Number(at("floor").value).toFixed(2);
  at("count").textContent = number(found.length) + (hidden ? say("hidden", hidden) : "");
  for (const [label, box] of shownCounts) box.textContent = all.filter((e) => e.label === label && aboveFloor(e)).length;
  links = new Map(all.map((e) => [e, []]));
  const box = document.createDocumentFragment();
  for (const doc of result.docs.slice(0, 200 * most)) {
    if (doc.error) make("p", doc.error.words, box, "error").title = doc.error.detail || "";
    const part = make("div", "", box, "doc");
    part.doc = doc;
    if (result.kind) part.dataset.id = doc.id;
    highlight(part, doc.characters, doc.entities.filter(isShown));
  }
  at("shown").replaceChildren(box);
  showTable();
}

function showTable() {
  for (const parts of links.values()) if (parts.at(-1)?.tagName === "TR") parts.pop();
  const wanted = at("find").value.trim().toLowerCase();
  const rows = result.docs.flatMap((doc) => doc.entities.filter(isShown).map((e) => ({ id: doc.id ?? "", doc, e })))
    .filter(({ id, e }) => [id, e.label, e.text].some((value) => String(value).toLowerCase().includes(wanted)));
  if (sorting.key) {
    const value = ({ id, e }) => (sorting.key === "id" ? id : sorting.key === "score" ? scoreOf(e) : e[sorting.key]);
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), language));
    rows.sort((a, b) => (sorting.down ? -1 : 1) * compare(value(a), value(b)));
  }
  const table = document.createDocumentFragment();
  for (const { id, doc, e } of rows.slice(0, 2000 * most)) {
    const row = make("tr", "", table);
    row.entities = [e];
    row.doc = doc;
    links.get(e).push(row);
    if (result.kind) make("td", id, row, "id");
    colour(make("span", e.label, make("td", "", row, "name"), "label"), e.label).title = descriptions.get(e.label) ?? "";
    make("button", e.text, make("td", "", row, "surface")).type = "button";
    make("td", e.start, row);
    make("td", e.end, row);
    make("td", (e.score === undefined ? "" : e.score.toFixed(3)) + (e.ambiguous ? " *" : ""), row);
  }
  if (!rows.length) make("td", say("none"), make("tr", "", table)).colSpan = 6;
  at("table").replaceChildren(table);
  at("ids").hidden = !result.kind;
  at("twice").hidden = !rows.some(({ e }) => e.ambiguous);
  const left = Math.max(0, result.docs.length - 200 * most, rows.length - 2000 * most);
  at("more").hidden = !left;
  at("more").textContent = say("more", left);
  for (const button of document.querySelectorAll("[data-sort]")) {
    const by = button.dataset.sort === sorting.key;
    button.parentElement.ariaSort = by ? (sorting.down ? "descending" : "ascending") : "none";
  }
}

// The labels that were found, each to be hidden and with a minimum score of its own.
function showLabels() {
  at("labels").replaceChildren();
  shownCounts.clear();
  const found = new Set(result.docs.flatMap((doc) => doc.entities.map((e) => e.label)));
  for (const label of new Set([...[...descriptions.keys()].filter((name) => found.has(name)), ...found])) {
    const item = colour(make("span", "", at("labels"), "label"), label);
    const name = make("label", "", item);
    name.title = descriptions.get(label) ?? "";
    const tick = make("input", "", name);
    tick.type = "checkbox";
    tick.checked = !off.has(label);
    tick.dataset.label = label;
    tick.addEventListener("change", () => { off[tick.checked ? "delete" : "add"](label); show(); });
    name.append(` ${label} `);
    shownCounts.set(label, make("span", "", name));
    const floor = make("input", "", item);
    Object.assign(floor, { type: "number", min: 0, max: 1, step: 0.05, placeholder: "≥", value: floors.get(label) ?? "" });
    floor.dataset.floor = label;
    floor.title = floor.ariaLabel = say("floorOf", label);
    floor.addEventListener("input", () => {
      if (floor.value === "") floors.delete(label); else floors.set(label, Number(floor.value));
      show();
    });
  }
}

// Offsets count code points, as in the API; a JavaScript string counts an emoji as two.
function highlight(box, characters, entities) {
  const opens = new Map(), closes = new Map();
  const add = (map, place, e) => map.has(place) ? map.get(place).push(e) : map.set(place, [e]);
  for (const e of entities) { add(opens, e.start, e); add(closes, e.end, e); }
  const places = [...new Set([0, characters.length, ...opens.keys(), ...closes.keys()])].sort((a, b) => a - b);
  let inside = [];
  for (let i = 0; i + 1 < places.length; i++) {
    inside = inside.filter((e) => e.end > places[i]).concat(opens.get(places[i]) || []);
    const text = characters.slice(places[i], places[i + 1]).join("");
    if (!inside.length) { box.append(text); continue; }
    const outer = [...inside].sort((a, b) => b.end - b.start - (a.end - a.start));
    const mark = colour(make("mark", text, box, outer.length > 1 ? "nested" : ""), outer[0].label);
    mark.entities = outer;
    for (const e of outer) links.get(e).push(mark);
    mark.title = outer.map((e) => `${e.label} ${e.text}`).join(" · ");
    for (const e of closes.get(places[i + 1]) || []) make("sub", `${e.label}${e.score === undefined ? "" : " " + e.score.toFixed(2)}`, box);
  }
}

// A mark or a row of the table at an event, and the innermost of its entities.
function entityAt(event) {
  const part = event.target.closest("mark, #table tr");
  return part?.entities ? { part, doc: part.doc ?? part.parentElement.doc, entity: part.entities.at(-1) } : null;
}

function light(entity, name = "lit") {
  for (const part of document.querySelectorAll(`.${name}`)) part.classList.remove(name);
  for (const part of (entity && links.get(entity)) || []) part.classList.add(name);
}

// Opens the editor for an entity, and shows its mark and its row.
function choose({ part, doc, entity }) {
  openEditor({ doc, start: entity.start, end: entity.end, entity });
  light(entity, "chosen");
  for (const other of links.get(entity)) if (other.tagName !== part.tagName) { other.scrollIntoView({ block: "nearest" }); break; }
}

// Opens the editor for a new entity: the selected characters of one text, without the spaces around them.
function chooseSelection() {
  const selection = getSelection();
  if (selection.isCollapsed || !selection.rangeCount) return;
  const range = selection.getRangeAt(0);
  const box = (node) => (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest(".doc");
  const part = box(range.startContainer);
  if (!part || part !== box(range.endContainer)) return;
  const upTo = (node, offset) => {
    const before = document.createRange();
    before.selectNodeContents(part);
    before.setEnd(node, offset);
    const copy = before.cloneContents();
    for (const sub of copy.querySelectorAll("sub")) sub.remove();
    return Array.from(copy.textContent).length;
  };
  let start = upTo(range.startContainer, range.startOffset), end = upTo(range.endContainer, range.endOffset);
  while (start < end && !part.doc.characters[start].trim()) start++;
  while (start < end && !part.doc.characters[end - 1].trim()) end--;
  if (start < end) openEditor({ doc: part.doc, start, end, entity: null });
}

function openEditor(what) {
  chosen = what;
  light(null, "chosen");
  const labels = new Set([...descriptions.keys(), ...result.docs.flatMap((doc) => doc.entities.map((e) => e.label))]);
  at("relabel").replaceChildren(...[...labels].map((label) => new Option(label, label, false, label === what.entity?.label)));
  at("edited").textContent = what.doc.characters.slice(what.start, what.end).join("");
  at("remove").hidden = !what.entity;
  at("edit").hidden = false;
}

function closeEditor() {
  if (at("edit").contains(document.activeElement)) at("shown").focus({ preventScroll: true });
  chosen = null;
  light(null, "chosen");
  at("edit").hidden = true;
}

// Gives the chosen entity a label, or removes it for null. An entity made by hand has no score; no two are the same.
function correct(label) {
  const { doc, start, end, entity } = chosen;
  const same = (e) => e.label === label && e.start === start && e.end === end;
  if (entity?.label !== label) {
    doc.entities = doc.entities.filter((e) => e !== entity && !same(e));
    if (label !== null) {
      doc.entities.push({ label, text: doc.characters.slice(start, end).join(""), start, end });
      doc.entities.sort((a, b) => a.start - b.start || a.end - b.end);
    }
    remember();
  }
  showResult();
  at("status").textContent = say("edited");
}
