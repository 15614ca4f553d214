// What a result can become: JSON, rows to train on, CSV, the clipboard, and the history of this browser.

const HISTORY = "qwen_ner.history", HISTORY_ENTRIES = 20, HISTORY_CHARACTERS = 200000;

// The rows of the result with what is shown of their entities, or with all that reach the minimum score.
function resultRows(wanted = isShown) {
  return result.docs.map(({ id, text, entities, error }) => ({
    ...(result.kind ? { id } : {}), text, entities: entities.filter(wanted), ...(error ? { error: error.detail || error.words } : {}),
  }));
}

function asJson() {
  const rows = resultRows();
  return JSON.stringify(result.kind ? rows : rows[0], null, 2) + "\n";
}

// JSON Lines that training reads: a hidden label is annotated all the same, a row that was not read is left out, and so
// are ids that are not unique.
function asTrainingRows() {
  const rows = resultRows(aboveFloor).filter((row) => row.text.trim() && !row.error);
  const unique = new Set(rows.map(({ id }) => String(id))).size === rows.length;
  at("note").textContent = [
    rows.length < result.docs.length ? say("leftOut", result.docs.length - rows.length) : "", unique ? "" : say("noIds"),
  ].join(" ");
  return rows.map((row) => {
    const entities = row.entities.map(({ ambiguous, ...e }) => e);
    return JSON.stringify({ ...row, id: unique ? row.id : undefined, entities }) + "\n";
  }).join("");
}

// A spreadsheet runs a cell that begins with one of these; a ' before it makes it text (OWASP, CSV injection).
function csvCell(value) {
  const text = String(value ?? "").replace(/^[=+\-@\t\r\n＝＋－＠]/, "'$&");
  return `"${text.replaceAll('"', '""')}"`;
}

function asCsv() {
  const columns = [...(result.kind ? ["id"] : []), "label", "text", "start", "end", "score"];
  const rows = result.docs.flatMap((doc) => doc.entities.filter(isShown).map((e) => ({ ...e, id: doc.id })));
  const lines = [columns.join(","), ...rows.map((row) => columns.map((name) => csvCell(row[name])).join(","))];
  return "\ufeff" + lines.join("\r\n") + "\r\n"; // the byte order mark tells spreadsheets that this is UTF-8
}

function download(name, type, content) {
  if (!content) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The clipboard needs https or this machine; elsewhere the old command does it.
async function copy() {
  let copied = false;
  try {
    await navigator.clipboard.writeText(asJson());
    copied = true;
  } catch {
    const box = make("textarea", asJson(), document.body, "unseen");
    box.select();
    copied = document.execCommand("copy");
    box.remove();
    at("copy").focus();
  }
  at("note").textContent = say(copied ? "copied" : "uncopied");
}

function readHistory() {
  try {
    return JSON.parse(localStorage.getItem(HISTORY) ?? "[]");
  } catch {
    return []; // the browser allows no storage, or something else wrote there
  }
}

// Keeps the result in this browser, unless it is large; the oldest give way.
function remember() {
  const docs = result.docs.map(({ entities, error }) => ({ entities, error: error && { key: error.message, values: error.values, detail: error.detail } }));
  const entry = { model: about.model, time: Date.now(), source: result.source, docs };
  const others = readHistory().filter((other) => !(other.model === entry.model && sameSource(other.source, entry.source)));
  const size = JSON.stringify(entry).length;
  let entries = [...(size <= HISTORY_CHARACTERS ? [entry] : []), ...others].slice(0, HISTORY_ENTRIES);
  for (; ; entries = entries.slice(0, -1)) {
    try {
      localStorage.setItem(HISTORY, JSON.stringify(entries));
      break;
    } catch {
      if (!entries.length) break;
    }
  }
  showHistory();
}

function showHistory() {
  const entries = readHistory().filter((entry) => entry.model === about.model);
  at("history").hidden = !entries.length;
  at("past").replaceChildren();
  for (const entry of entries) {
    const when = new Date(entry.time).toLocaleString(language);
    const button = make("button", `${entry.source.name || entry.source.text.trim().slice(0, 40)} · ${when}`, make("li", "", at("past")), "example");
    button.type = "button";
    button.addEventListener("click", () => recall(entry));
  }
}

function recall({ source, docs }) {
  if (running) return;
  setSource(source);
  const { kind, rows } = readRows(source);
  result = { source, kind, docs: docs.map(({ entities, error }, i) => makeDoc(rows[i], entities, error)) };
  showResult();
}
