"use strict";
const about = JSON.parse(document.getElementById("about").textContent);
const at = (id) => document.getElementById(id);
// What the page says, in both languages. A value is a string, or a function of what the message is about.
const number = (value) => value.toLocaleString("en-US");
const words = {
  en: {
    characters: "characters", none: "No entities.", labels: "Labels", floorOf: (label) => `Minimum score of ${label}`,
    hidden: (n) => ` (${number(n)} below the minimum score or hidden)`,
    read: (n, of) => `read ${number(n)} of ${number(of)}`,
    scores: (s) => `scored on ${s.data} ${s.split}, ${s.rows} rows`,
    kind: (n, kind) => `${number(n)} ${n === 1 ? "row" : "rows"} of ${kind}.`,
    found: (n, rows) => `${number(n)} ${n === 1 ? "entity" : "entities"}${rows > 1 ? ` in ${number(rows)} rows` : ""}.`,
    more: (n) => `Show more (${number(n)} left)`,
    copied: "Copied.", uncopied: "The browser does not allow copying; download the result instead.",
    edited: "Corrected.",
    leftOut: (n) => `Rows left out, because they have no text or could not be read: ${number(n)}.`,
    noIds: "Ids left out, because some occur more than once.",
    empty: "Enter a text first.", stopped: "Stopped.", slow: "The server does not respond.",
    partly: (n, of) => `${number(n)} of ${number(of)} rows were read.`,
    torn: "The response was cut off; try again.",
    tooLong: (n) => `${number(n)} characters exceed the limit of ${number(about.characters)}; shorten or split the text.`,
    half: "The text holds half of a surrogate pair; use the whole character instead.",
    unread: "The model could not read this text; split it, or see the server's log.",
    unreadRows: (n) => `Rows that could not be read: ${number(n)}.`,
    noToken: "This server needs a token; enter it beside the button.", badToken: "The token is wrong; enter it again.",
    full: (seconds) => `The server is busy; try again in ${seconds || "a few"} seconds.`,
    tooMuch: "This is more than the server accepts at a time; shorten or split the text.",
    late: "The server did not finish in time; try less text.", down: "The server is shutting down; try again in a moment.",
    status: (status) => `The server answered with an error (HTTP ${status}).`,
    decoded: "The file is not UTF-8; it was read as GB18030.",
    documentFile: "This is a Word, PDF, RTF or ZIP file; save it as plain text in UTF-8 first.",
    binary: "This is not a text file, or its encoding is unknown; save it as plain text in UTF-8.",
    oneFile: "Drop one file at a time.", tooBig: "The file is over 4 MB; use qwen-ner predict on the command line.",
    notJson: (line) => `Line ${line} is not a JSON object; correct it, or tick “One text”.`,
    noText: (line) => `Row ${line} has no "text" that is a string; correct it, or tick “One text”.`,
    badId: (line) => `The id of row ${line} is not a string or whole number; correct it, or tick “One text”.`,
    noColumn: "No column has a name such as text; name the column that holds the texts, or tick “One text”.",
    noRows: "The file has no rows; add one, or tick “One text”.",
    openQuote: (line) => `The quote in the row at line ${line} is not closed; close it, or tick “One text”.`,
    afterQuote: (line) => `At line ${line}, text follows a closing quote; write a quote inside a cell twice, or tick “One text”.`,
    cells: (line, n, of) => `The row at line ${line} has ${n} cells, the header ${of}; quote a cell that holds the separator, or tick “One text”.`,
  },
  zh: {
    characters: "字", none: "没有实体。", labels: "类别", floorOf: (label) => `${label} 的最低置信度`,
    hidden: (n) => `（${number(n)} 个低于最低置信度或已隐藏）`,
    read: (n, of) => `已读 ${number(n)} / ${number(of)}`,
    scores: (s) => `评测数据：${s.data} ${s.split}, ${s.rows} 行`,
    kind: (n, kind) => `${number(n)} 行 ${kind}。`,
    found: (n, rows) => `${rows > 1 ? `${number(rows)} 行，` : ""}${number(n)} 个实体。`,
    more: (n) => `显示更多（还有 ${number(n)} 个）`,
    copied: "已复制。", uncopied: "浏览器不允许复制，请下载结果。",
    edited: "已更正。",
    leftOut: (n) => `因没有文本或无法读取而略去的行：${number(n)}。`,
    noIds: "部分编号重复，已略去编号。",
    empty: "请先输入文本。", stopped: "已停止。", slow: "服务器没有响应。",
    partly: (n, of) => `已读 ${number(of)} 行中的 ${number(n)} 行。`,
    torn: "响应不完整，请重试。",
    tooLong: (n) => `文本有 ${number(n)} 字，超过上限 ${number(about.characters)} 字，请缩短或拆分。`,
    half: "文本含有半个代理对，不是完整字符，请改为完整字符。",
    unread: "模型无法读取此文本，请拆分，或查看服务器日志。",
    unreadRows: (n) => `无法读取的行：${number(n)}。`,
    noToken: "此服务器需要令牌，请在按钮旁输入。", badToken: "令牌不正确，请重新输入。",
    full: (seconds) => `服务器繁忙，请${seconds ? ` ${seconds} 秒` : "稍"}后重试。`,
    tooMuch: "超过服务器一次接受的量，请缩短或拆分文本。",
    late: "服务器未能按时完成，请减少文本。", down: "服务器正在关闭，请稍后重试。",
    status: (status) => `服务器返回错误（HTTP ${status}）。`,
    decoded: "文件不是 UTF-8，按 GB18030 读取。",
    documentFile: "这是 Word、PDF、RTF 或 ZIP 文件，请另存为 UTF-8 纯文本后再打开。",
    binary: "无法判断此文件的编码，或它不是文本，请另存为 UTF-8 纯文本。",
    oneFile: "一次只能拖入一个文件。", tooBig: "文件超过 4 MB，请在命令行使用 qwen-ner predict。",
    notJson: (line) => `第 ${line} 行不是 JSON 对象，请更正，或勾选“作为一个文本”。`,
    noText: (line) => `第 ${line} 行没有字符串 "text"，请更正，或勾选“作为一个文本”。`,
    badId: (line) => `第 ${line} 行的 id 不是字符串或整数，请更正，或勾选“作为一个文本”。`,
    noColumn: "没有名为 text（或“文本”）的列，请命名文本所在的列，或勾选“作为一个文本”。",
    noRows: "文件没有数据行，请补充，或勾选“作为一个文本”。",
    openQuote: (line) => `第 ${line} 行的引号没有闭合，请闭合，或勾选“作为一个文本”。`,
    afterQuote: (line) => `第 ${line} 行的闭引号后还有文字，单元格内的引号要写两次，或勾选“作为一个文本”。`,
    cells: (line, n, of) => `第 ${line} 行有 ${n} 个单元格，表头有 ${of} 个，含分隔符的单元格要加引号，或勾选“作为一个文本”。`,
  },
};
let language = (navigator.language || "zh").startsWith("zh") ? "zh" : "en";

function say(key, ...values) {
  const message = words[language][key];
  return typeof message === "function" ? message(...values) : message;
}

// An error that knows its message in both languages.
class Fault extends Error {
  constructor(key, ...values) {
    super(key);
    this.values = values;
  }

  get words() {
    return say(this.message, ...this.values);
  }
}
