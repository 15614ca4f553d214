// The form: a text or a file in, requests to the server, a result out.

let running = null; // AbortController of the current request
let file = null; // {name, text, shown}: the file in the box, whose line ends the box changes; it holds until it is edited
let fault = null; // the Fault that is shown

function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-en]")) element.textContent = element.dataset[language];
  for (const element of document.querySelectorAll("[data-en-title]")) element.title = language === "zh" ? element.dataset.zhTitle : element.dataset.enTitle;
  at("language").textContent = language === "zh" ? "English" : "中文";
  at("language").lang = language === "zh" ? "en" : "zh";
  at("labels").ariaLabel = say("labels");
  at("find").ariaLabel = at("find").placeholder = language === "zh" ? "筛选表格" : "Filter the table";
  showScores();
  at("status").textContent = at("note").textContent = "";
  showFault(fault);
  showInput();
  if (result) { showLabels(); show(); }
  showHistory();
}

function showScores() {
  const s = about.scores, percent = (rate) => (100 * rate).toFixed(1);
  at("scores").textContent = s
    ? `F1 ${percent(s.f1)} · span F1 ${percent(s.span_f1)} · macro F1 ${percent(s.macro_f1)} (${say("scores", s)})` : "";
}

function showFault(shown) {
  fault = shown;
  at("fault").textContent = fault ? fault.words : "";
  at("fault").hidden = !fault;
}

// What is to be read: {text, name, whole}. A file is read as it is on disk until the box is edited.
function source() {
  const typed = at("text").value, opened = file && file.shown === typed;
  return { text: opened ? file.text : typed, name: opened ? file.name : "", whole: at("whole").checked };
}

function sameSource(one, other) {
  return one.text === other.text && one.name === other.name && one.whole === other.whole;
}

function setSource({ text, name, whole }) {
  at("text").value = text;
  at("whole").checked = whole;
  file = { name, text, shown: at("text").value };
  showFault(null);
  showInput();
}

// Says how long the input is and what it is read as.
function showInput() {
  const given = source();
  const length = Array.from(given.text).length;
  at("length").textContent = `${number(length)} / ${number(about.characters)} ${say("characters")}`;
  let read, broken = false;
  try { read = readRows(given); } catch { broken = true; }
  at("length").hidden = broken || Boolean(read.kind); // the limit is of a text
  at("kind").textContent = [given.name, read?.kind ? say("kind", read.rows.length, read.kind) : ""].filter(Boolean).join(" · ");
  at("one").hidden = !(given.whole || broken || read.kind);
  markStale();
}

// A result of another text than the box holds is marked; its downloads are of its own text.
function markStale() {
  const stale = Boolean(result) && !sameSource(result.source, source());
  at("stale").hidden = !stale;
  at("found").classList.toggle("stale", stale);
}

function makeDoc({ id, text }, entities, error) {
  return { id, text, entities, characters: Array.from(text), error: error ? Object.assign(new Fault(error.key, ...error.values), { detail: error.detail }) : null };
}

async function extract() {
  const asked = source();
  showFault(null);
  at("note").textContent = at("status").textContent = "";
  let read;
  try {
    read = readRows(asked);
    if (!read.rows.some(({ text }) => text.trim())) throw new Fault("empty");
  } catch (error) {
    return showFault(error);
  }
  running = new AbortController();
  at("go").ariaDisabled = "true"; // not disabled, which would lose the focus
  at("stop").hidden = at("progress").hidden = false;
  showProgress(0, 0);
  const docs = [];
  let failed = null;
  try {
    for (const rows of requests(read.rows)) await ask(rows, read.rows.length, docs);
  } catch (error) {
    failed = error instanceof Fault ? error : new Fault(error.name === "AbortError" ? "stopped" : "slow");
  }
  const unread = docs.filter((doc) => doc.error).length;
  if (docs.length && (read.kind || !unread)) {
    result = { source: asked, kind: read.kind, docs };
    off.clear();
    most = 1;
    showResult();
    remember();
    at("status").textContent = say("found", docs.flatMap((doc) => doc.entities).length, docs.length);
    if (failed) at("note").textContent = say("partly", docs.length, read.rows.length);
  }
  showFault(failed || (unread ? (read.kind ? new Fault("unreadRows", unread) : docs[0].error) : null));
  running = null;
  at("go").ariaDisabled = null;
  if (document.activeElement === at("stop")) at("go").focus();
  at("stop").hidden = at("progress").hidden = true;
}

// The rows in pieces that the server accepts and finishes in time. One that it would not accept stands alone.
function* requests(rows) {
  let piece = [], size = 0;
  for (const row of rows) {
    const length = Array.from(row.text).length;
    if (piece.length && (size + length > about.characters || piece.length === Math.min(64, about.texts))) {
      yield piece;
      piece = [];
      size = 0;
    }
    piece.push(row);
    size += length;
  }
  yield piece;
}

// Appends a doc for each of the rows as soon as it is read. Throws a Fault if the server refuses them.
async function ask(rows, of, docs) {
  const length = Array.from(rows[0].text).length;
  if (length > about.characters) { docs.push(makeDoc(rows[0], [], { key: "tooLong", values: [length] })); return; }
  const headers = { "Content-Type": "application/json", Accept: "application/x-ndjson" };
  const token = at("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  const body = JSON.stringify({ texts: rows.map((row) => row.text), progress: true });
  const answer = await fetch("v1/extract", { method: "POST", headers, body, signal: running.signal });
  if (answer.status === 401) at("asks").hidden = false;
  if (!answer.ok) throw refusal(answer, token);
  if (!descriptions.size) await learnModel(headers);
  let read = 0;
  for await (const line of linesOf(answer.body)) {
    if (line.progress) {
      if (of === 1) showProgress(line.progress.read, line.progress.of);
      continue;
    }
    const row = rows[read++];
    const error = line.error ? { key: /\p{Surrogate}/u.test(row.text) ? "half" : "unread", values: [], detail: line.error } : null;
    docs.push(makeDoc(row, line.entities || [], error));
    if (of > 1) showProgress(docs.length, of);
  }
  if (read < rows.length) throw new Fault("torn");
}

// A server with a token tells its labels and scores only to those who send it.
async function learnModel(headers) {
  const answer = await fetch("v1/model", { headers, signal: running.signal });
  if (!answer.ok) return;
  const { labels, scores } = await answer.json();
  about.scores = scores;
  learnLabels(labels);
  showScores();
}

function refusal(answer, token) {
  const keys = new Map([[401, token ? "badToken" : "noToken"], [408, "slow"], [413, "tooMuch"], [503, "down"], [504, "late"]]);
  if (answer.status === 429) return new Fault("full", Number(answer.headers.get("Retry-After")));
  return new Fault(keys.get(answer.status) ?? "status", answer.status);
}

async function* linesOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    const lines = (rest + (value || "")).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
    if (done) return;
  }
}

function showProgress(read, of) {
  if (of) at("bar").value = read / of; else at("bar").removeAttribute("value");
  at("told").textContent = of ? say("read", read, of) : "";
}

async function open(files) {
  try {
    if (files.length > 1) throw new Fault("oneFile");
    if (files[0].size > 4e6) throw new Fault("tooBig");
    const { text, guessed } = decode(new Uint8Array(await files[0].arrayBuffer()));
    setSource({ text, name: files[0].name, whole: false });
    if (guessed) showFault(new Fault("decoded"));
    else readRows(source());
  } catch (error) {
    showFault(error instanceof Fault ? error : new Fault("binary"));
  }
}

function listen() {
  at("form").addEventListener("submit", (event) => { event.preventDefault(); if (!running) extract(); });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); at("form").requestSubmit(); }
  });
  at("text").addEventListener("input", () => { showFault(null); showInput(); });
  at("text").addEventListener("paste", (event) => {
    // What is copied from a spreadsheet is text, with a picture of it as a file.
    const { files } = event.clipboardData;
    if (files.length && !event.clipboardData.getData("text")) { event.preventDefault(); open([...files]); }
  });
  at("whole").addEventListener("change", () => { showFault(null); showInput(); });
  at("stop").addEventListener("click", () => running?.abort());
  at("file").addEventListener("change", () => { if (at("file").files.length) open([...at("file").files]); at("file").value = ""; });
  // On the whole window: a file dropped beside the box would replace the page. The box takes dropped text by itself.
  for (const kind of ["dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      const files = event.dataTransfer.types.includes("Files");
      at("text").classList.toggle("over", files && kind === "dragover");
      if (!files && event.target === at("text")) return;
      event.preventDefault();
      if (kind === "drop" && files) open([...event.dataTransfer.files]);
    });
  }
  at("language").addEventListener("click", () => { language = language === "zh" ? "en" : "zh"; translate(); });
  at("clear").addEventListener("click", () => {
    try { localStorage.removeItem(HISTORY); } catch { /* nothing was stored */ }
    showHistory();
    at("text").focus();
  });
  for (const sentence of about.examples) {
    const button = make("button", sentence, at("examples"), "example");
    button.type = "button";
    button.lang = "zh";
    button.addEventListener("click", () => { if (!running) { setSource({ text: sentence, name: "", whole: false }); extract(); } });
  }
}

function listenToResult() {
  at("floor").addEventListener("input", show);
  at("find").addEventListener("input", showTable);
  at("more").addEventListener("click", () => { most++; show(); });
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      sorting = { key, down: sorting.key === key && !sorting.down };
      showTable();
    });
  }
  at("found").addEventListener("pointerover", (event) => light(entityAt(event)?.entity));
  for (const kind of ["mouseup", "keyup"]) at("shown").addEventListener(kind, chooseSelection);
  at("found").addEventListener("click", (event) => {
    const there = getSelection().isCollapsed || event.target.closest("#table") ? entityAt(event) : null;
    if (!there) return;
    choose(there);
    if (event.target.closest("button")) at("relabel").focus({ preventScroll: true });
  });
  at("set").addEventListener("click", () => correct(at("relabel").value));
  at("remove").addEventListener("click", () => correct(null));
  at("cancel").addEventListener("click", closeEditor);
  at("edit").addEventListener("keydown", (event) => { if (event.key === "Escape") closeEditor(); });
  at("json").addEventListener("click", () => download("entities.json", "application/json", asJson()));
  at("jsonl").addEventListener("click", () => download("entities.jsonl", "application/x-ndjson", asTrainingRows()));
  at("csv").addEventListener("click", () => download("entities.csv", "text/csv", asCsv()));
  at("copy").addEventListener("click", copy);
}

listen();
listenToResult();
translate();
