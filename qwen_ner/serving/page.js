"use strict";
const about = JSON.parse(document.getElementById("about").textContent);
const at = (id) => document.getElementById(id);
const hue = Object.fromEntries(Object.keys(about.labels).map((label, i, all) => [label, Math.round((360 * i) / all.length)]));
const words = {
  en: { characters: "characters", read: "read", none: "No entities.", of: "of", hidden: "below the minimum score or hidden",
        decoded: "The file is not UTF-8; it was read as GB18030.", slow: "The server does not respond.", stopped: "Stopped.",
        torn: "The response was cut off; try again.", empty: "Enter a text first.",
        scores: "scored on ", rows: "rows" },
  zh: { characters: "字", read: "已读", none: "没有实体。", of: "/", hidden: "低于最低置信度或已隐藏",
        decoded: "文件不是 UTF-8，按 GB18030 读取。", slow: "服务器没有响应。", stopped: "已停止。",
        torn: "响应不完整，请重试。", empty: "请先输入文本。",
        scores: "评测数据：", rows: "行" },
};
let language = (navigator.language || "zh").startsWith("zh") ? "zh" : "en";
let asked = null; // {text: characters, entities}
let running = null; // AbortController of the current request
const off = new Set(); // hidden labels

function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-en]")) element.textContent = element.dataset[language];
  at("language").textContent = language === "zh" ? "English" : "中文";
  at("language").lang = language === "zh" ? "en" : "zh";
  at("labels").setAttribute("aria-label", language === "zh" ? "类别" : "Labels");
  const s = about.scores;
  const percent = (rate) => (100 * rate).toFixed(1);
  at("scores").textContent = s
    ? `F1 ${percent(s.f1)} · span F1 ${percent(s.span_f1)} · macro F1 ${percent(s.macro_f1)} (${words[language].scores}${s.data} ${s.split}, ${s.rows} ${words[language].rows})`
    : "";
  count();
  show();
}

function count() {
  const length = Array.from(at("text").value).length;
  at("length").textContent = `${length.toLocaleString()} / ${about.characters.toLocaleString()} ${words[language].characters}`;
}

function showError(message) {
  at("fault").textContent = message;
  at("fault").hidden = !message;
}

function make(tag, text, parent) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

function visible() {
  return asked.entities.filter((e) => (e.score ?? 1) >= Number(at("floor").value) && !off.has(e.label));
}

// Offsets count code points, as in the API; a JavaScript string counts an emoji as two.
function show() {
  if (!asked) return;
  const floor = Number(at("floor").value);
  const found = visible();
  at("least").textContent = floor.toFixed(2);
  const hidden = asked.entities.length - found.length;
  at("count").textContent = found.length.toLocaleString() + (hidden ? ` (${hidden.toLocaleString()} ${words[language].hidden})` : "");
  const counts = {};
  for (const e of asked.entities) counts[e.label] = (counts[e.label] || 0) + ((e.score ?? 1) >= floor ? 1 : 0);
  legend(counts);
  highlight(at("shown"), asked.text, found);
  const table = at("table");
  table.replaceChildren();
  const rows = document.createDocumentFragment();
  for (const e of found) {
    const row = document.createElement("tr");
    const cell = make("td", "", row);
    make("span", e.label, cell).className = "label";
    cell.firstChild.style.setProperty("--h", hue[e.label] ?? 0);
    cell.firstChild.title = about.labels[e.label] || "";
    make("td", e.text, row);
    make("td", e.start, row);
    make("td", e.end, row);
    make("td", (e.score === undefined ? "" : e.score.toFixed(3)) + (e.ambiguous ? " *" : ""), row);
    rows.append(row);
  }
  table.append(rows);
  at("twice").hidden = !found.some((e) => e.ambiguous);
  if (!found.length) make("td", words[language].none, make("tr", "", table)).colSpan = 5;
  at("found").hidden = false;
}

function legend(counts) {
  const box = at("labels");
  const focused = document.activeElement?.dataset?.label;
  box.replaceChildren();
  for (const label of Object.keys(about.labels).filter((name) => name in counts)) {
    const item = make("label", "", box);
    item.className = "label";
    item.style.setProperty("--h", hue[label]);
    item.title = about.labels[label];
    const tick = make("input", "", item);
    tick.type = "checkbox";
    tick.checked = !off.has(label);
    tick.dataset.label = label;
    make("span", `${label} ${counts[label]}`, item);
    tick.addEventListener("change", () => { off[tick.checked ? "delete" : "add"](label); show(); });
    if (label === focused) tick.focus();
  }
}

function highlight(box, characters, entities) {
  const opens = new Map(), closes = new Map();
  const add = (map, place, e) => map.set(place, [...(map.get(place) || []), e]);
  for (const e of entities) { add(opens, e.start, e); add(closes, e.end, e); }
  const places = [...new Set([0, characters.length, ...opens.keys(), ...closes.keys()])].sort((a, b) => a - b);
  const pieces = document.createDocumentFragment();
  let inside = [];
  for (let i = 0; i + 1 < places.length; i++) {
    inside = inside.filter((e) => e.end > places[i]).concat(opens.get(places[i]) || []);
    const text = characters.slice(places[i], places[i + 1]).join("");
    if (!inside.length) { pieces.append(text); continue; }
    const outer = [...inside].sort((a, b) => b.end - b.start - (a.end - a.start));
    const mark = make("mark", text, pieces);
    mark.className = outer.length > 1 ? "nested" : "";
    mark.style.setProperty("--h", hue[outer[0].label] ?? 0);
    mark.title = outer.map((e) => `${e.label} ${e.text}`).join(" · ");
    for (const e of closes.get(places[i + 1]) || []) make("sub", `${e.label}${e.score === undefined ? "" : " " + e.score.toFixed(2)}`, pieces);
  }
  box.replaceChildren(pieces);
}

async function extract() {
  const text = at("text").value;
  if (!text.trim()) return showError(words[language].empty);
  showError("");
  running = new AbortController();
  at("go").disabled = true;
  at("stop").hidden = at("progress").hidden = false;
  showProgress(0, 0);
  try {
    const headers = { "Content-Type": "application/json", Accept: "application/x-ndjson" };
    if (at("token").value) headers.Authorization = `Bearer ${at("token").value}`;
    const body = JSON.stringify({ texts: [text], progress: true });
    const answer = await fetch("v1/extract", { method: "POST", headers, body, signal: running.signal });
    if (answer.status === 401) at("asks").hidden = false;
    if (!answer.ok) return showError((await answer.json()).error);
    const row = await readResult(answer.body);
    if (!row) return showError(words[language].torn);
    if (row.error) return showError(row.error);
    asked = { text: Array.from(text), entities: row.entities };
    off.clear();
    show();
  } catch (error) {
    showError(error.name === "AbortError" ? words[language].stopped : words[language].slow);
  } finally {
    running = null;
    at("go").disabled = false;
    at("stop").hidden = at("progress").hidden = true;
  }
}

// Returns the line of the text, and shows the progress lines before it.
async function readResult(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", found = null;
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value || "")).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const row = JSON.parse(line);
      if (row.progress) showProgress(row.progress.read, row.progress.of); else found = row;
    }
    if (done) return found;
  }
}

function showProgress(read, of) {
  if (of) at("bar").value = read / of; else at("bar").removeAttribute("value");
  at("told").textContent = of ? `${words[language].read} ${read.toLocaleString()} ${words[language].of} ${of.toLocaleString()}` : "";
}

async function open(file) {
  showError("");
  const bytes = await file.arrayBuffer();
  try {
    at("text").value = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    at("text").value = new TextDecoder("gb18030").decode(bytes);
    showError(words[language].decoded);
  }
  count();
}

function download(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); if (!running) extract(); });
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); at("form").requestSubmit(); }
});
at("text").addEventListener("input", count);
at("stop").addEventListener("click", () => running?.abort());
at("floor").addEventListener("input", show);
at("file").addEventListener("change", () => at("file").files[0] && open(at("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("text").addEventListener(kind, (event) => {
    event.preventDefault();
    at("text").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
    else if (kind === "drop") { at("text").value = event.dataTransfer.getData("text"); count(); }
  });
}
at("language").addEventListener("click", () => { language = language === "zh" ? "en" : "zh"; translate(); });
at("json").addEventListener("click", () => {
  download("entities.json", "application/json", JSON.stringify({ text: asked.text.join(""), entities: visible() }, null, 2) + "\n");
});
at("csv").addEventListener("click", () => {
  const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const rows = visible().map((e) => [e.label, e.text, e.start, e.end, e.score].map(quoted).join(","));
  // The byte order mark tells spreadsheets that this is UTF-8.
  download("entities.csv", "text/csv", "\ufeff" + ["label,text,start,end,score", ...rows].join("\r\n") + "\r\n");
});
for (const sentence of about.examples) {
  const button = make("button", sentence, at("examples"));
  button.type = "button";
  button.className = "example";
  button.lang = "zh";
  button.addEventListener("click", () => { at("text").value = sentence; count(); if (!running) extract(); });
}
translate();
