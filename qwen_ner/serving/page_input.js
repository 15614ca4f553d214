// From the bytes of a file, or from what was typed, to rows: {id, text}. A text that is no table is one row without an id.

const CONTROL = /[\0-\x08\x0e-\x1a\x1c-\x1f]/;
const TEXT_COLUMNS = ["text", "文本", "sentence", "句子", "content", "内容", "正文"];

// Returns the text and whether it was GB18030. Throws a Fault rather than return garbage.
function decode(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 5));
  if (/^(PK\x03\x04|%PDF|\xd0\xcf\x11\xe0|\{\\rtf)/.test(head)) throw new Fault("documentFile");
  const marked = head.startsWith("\xff\xfe") ? "utf-16le" : head.startsWith("\xfe\xff") ? "utf-16be" : null;
  for (const encoding of marked ? [marked] : ["utf-8", "gb18030"]) {
    if (encoding === "gb18030" && !looksLikeGb18030(bytes)) break;
    try {
      const text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
      if (CONTROL.test(text)) break;
      return { text, guessed: encoding === "gb18030" };
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
  }
  throw new Fault("binary");
}

// Big5 decodes as GB18030 without an error. But the common characters of GB18030 have lead bytes B0-D7 and trail bytes
// from A1 on, those of Big5 lead bytes A4-C6: this tells nearly every sentence.
function looksLikeGb18030(bytes) {
  let gb = 0, big5 = 0;
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] < 0x80) continue;
    const lead = bytes[i], trail = bytes[++i];
    if (trail >= 0x30 && trail <= 0x39) { i += 2; continue; }
    if (lead >= 0xb0 && lead <= 0xd7 && trail >= 0xa1) gb++;
    if (lead >= 0xa4 && lead <= 0xc6 && (trail >= 0xa1 || (trail >= 0x40 && trail <= 0x7e))) big5++;
  }
  return gb > big5;
}

// Returns {kind, rows}; kind is "" for one text. Throws a Fault for a table that cannot be read.
function readRows({ text, name, whole }) {
  const suffix = /\.(jsonl|ndjson|json|csv|tsv|tab)$/i.exec(name)?.[1].toLowerCase() || "";
  const table = whole ? null : readJson(text, /json/.test(suffix)) || readTable(text, /^[ct]/.test(suffix) ? suffix : "");
  if (!table) return { kind: "", rows: [{ text }] };
  if (!table.rows.length) throw new Fault("noRows");
  return table;
}

// An id beyond 2^53 would be rounded; it is kept as it is spelled.
function parse(json) {
  return JSON.parse(json, (key, value, context) =>
    key === "id" && Number.isInteger(value) && !Number.isSafeInteger(value) ? context?.source ?? NaN : value);
}

function tryParse(json) {
  try {
    return parse(json.trim()); // trim takes a byte order mark off too
  } catch {
    return undefined;
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const hasText = (value) => typeof value === "string" || (isObject(value) && Object.hasOwn(value, "text"));

// The rows of JSON Lines, of a JSON array, or of one object; null if it is none of them and `named` does not say so.
function readJson(text, named) {
  if (!named && !/^\s*[{[]/.test(text)) return null;
  const value = tryParse(text);
  if (value !== undefined) {
    const items = Array.isArray(value) ? value : [value];
    if (!named && !(items.length && typeof value === "object" && items.every(hasText))) return null;
    return { kind: "JSON", rows: items.map((item, i) => jsonRow(item, i + 1)) };
  }
  const lines = text.split("\n").map((line, i) => [line, i + 1]).filter(([line]) => line.trim());
  if (!named && !(isObject(tryParse(lines[0][0])) && hasText(tryParse(lines[0][0])))) return null;
  return {
    kind: "JSONL",
    rows: lines.map(([line, place]) => {
      const row = tryParse(line);
      if (!isObject(row)) throw new Fault("notJson", place);
      return jsonRow(row, place);
    }),
  };
}

function jsonRow(item, place) {
  if (typeof item === "string") return { id: place, text: item };
  if (!hasText(item) || typeof item.text !== "string") throw new Fault("noText", place);
  const id = Object.hasOwn(item, "id") ? item.id : place;
  if (typeof id !== "string" && !Number.isSafeInteger(id)) throw new Fault("badId", place);
  return { id, text: item.text };
}

// The rows of CSV or TSV; null if nothing says that it is one: neither the suffix nor a header.
function readTable(text, suffix) {
  if (!suffix && !/[\r\n]\s*\S/.test(text)) return null;
  const table = text.replace(/^(\s*[\r\n])+/, "");
  for (const separator of suffix && suffix !== "csv" ? ["\t"] : [",", "\t", ";"]) {
    const names = headerOf(table, separator);
    const column = TEXT_COLUMNS.map((name) => names.indexOf(name)).find((i) => i >= 0) ?? -1;
    if (column < 0 || (!suffix && names.length === 1 && names[0] !== "text")) continue;
    const rows = parseCells(table, separator).slice(1);
    for (const { line, cells } of rows) {
      if (cells.length !== names.length) throw new Fault("cells", line, cells.length, names.length);
    }
    const id = names.indexOf("id");
    const kind = separator === "\t" ? "TSV" : "CSV";
    return { kind, rows: rows.map(({ cells }, i) => ({ id: id < 0 ? i + 1 : cells[id], text: cells[column] })) };
  }
  if (suffix) throw new Fault("noColumn");
  return null;
}

function headerOf(table, separator) {
  try {
    const [{ cells }] = parseCells(/^[^\r\n]*/.exec(table)[0], separator);
    return cells.map((name) => name.trim().toLowerCase());
  } catch {
    return []; // prose that begins with a quote, or an empty file
  }
}

// RFC 4180, with any line end. Blank lines are no rows.
function parseCells(text, separator) {
  const rows = [], plain = new RegExp(`[^${separator}\\r\\n]*`, "y");
  let i = 0, line = 1;
  while (i < text.length) {
    const row = { line, cells: [] };
    let quoted = false;
    for (;; i++) {
      let cell = "";
      if (text[i] === '"') {
        quoted = true;
        do {
          const end = text.indexOf('"', i + 1);
          if (end < 0) throw new Fault("openQuote", row.line);
          cell += text.slice(i + 1, end);
          i = end + 1;
          if (text[i] === '"') cell += '"';
        } while (text[i] === '"');
        line += cell.match(/\r\n|\r|\n/g)?.length ?? 0;
        if (i < text.length && text[i] !== separator && text[i] !== "\r" && text[i] !== "\n") throw new Fault("afterQuote", line);
      } else {
        plain.lastIndex = i;
        cell = plain.exec(text)[0];
        i += cell.length;
      }
      row.cells.push(cell);
      if (text[i] !== separator) break;
    }
    i += text.startsWith("\r\n", i) ? 2 : 1;
    line++;
    if (quoted || row.cells.length > 1 || row.cells[0].trim()) rows.push(row);
  }
  return rows;
}
