"""Text with its entities marked in it, one sentence per line.

In: lines in one of three notations.

    {{company:三星}}在{{address:北京}}                  Boson
    <company>三星</company>在<address>北京</address>    XML with a root or without; <ENAMEX TYPE="company">…
    三星/company 在/o 北京/address                      MSRA: o, and what has no label, is outside; spaces are no text

or a folder of documents in one of the first two. Out: `Example`s; ids count the sentences from 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ....entities import Example, LabelSet
from ..errors import DOCUMENTS, Faults, LineFault, Note, ignore, quote
from ..hugging_face import SPLIT_NAMES
from ..lines import decode_line, lines_of, number_lines
from ..mentions import EntityReader, distinct
from ..rows import note_at, values_in
from ..tagged.tagging import join

NAME = "inline"
SUFFIXES = (".txt", ".xml")
DESCRIPTION = "text with its entities marked ({{label:text}}, <label>text</label>, text/label)"

Parsed = tuple[str, list[tuple[str, int, int]]]
"""A text and its (label, start, end)."""

_BOSON, _BRACES = re.compile(r"\{\{([^:{}]+):(.*?)\}\}"), re.compile(r"\{\{([^:{}]+):|\}\}")
_ELEMENT = re.compile(r"<(\w+)[^<>]*>[^<>]*</\1>")
_SLASHED = re.compile(r"(\S+)/([^\W\d][\w-]*)")
_BRACKETS = re.compile(r"(?<!\S)\[\S+/[^\W\d]\w*\s[^\[\]]*/\w+\]/?\w+")
_ALONE = re.compile(r"<(\w+)[^<>]*>(.*)</\1>")
_LITERAL = re.compile(r"&(?!#?\w+;)|<(?![/?!]?[^\W\d][^<>]*>)")
"""A sign of XML that says nothing there: AT&T, <3.9."""
_TYPES = ("TYPE", "type", "label", "LABEL")
_GENERIC = frozenset(
    ("entity", "ent", "ne", "enamex", "annotation", "tag", "span", "mark", "em", "font", "b", "i", "a")
)
"""Names of elements that say no label, in small letters."""
_PLACES = frozenset(("start", "end", "begin", "from", "to", "offset", "length"))
_UNTOLD = _PLACES | {"id", "style", "color", "size", "href", "title"}
"""Attributes that say no label."""
_SENTENCES = ("s", "sent", "sentence", "p", "line", "text")


def claims(path: Path) -> bool:
    """Whether this is a folder of marked documents: several .txt files, none of which is named after a split."""
    texts = sorted(path.glob("*.txt")) if path.is_dir() else []
    splits = {name for names in SPLIT_NAMES.values() for name in names}
    return (
        len(texts) > 1
        and not any(splits & {*re.split(r"[._-]+", text.name.lower())} for text in texts)
        and all(_marked(text) for text in texts)
    )


def _marked(path: Path) -> bool:
    lines = islice(lines_of(path), 100)
    return _notation([raw.decode(errors="replace") for raw in lines]) in (_boson, _xml)


def sniff(head: bytes, name: str) -> bool:
    rows = any(True for _ in values_in(head))  # JSON, whatever its texts hold
    return not rows and _notation(head.decode(errors="replace").splitlines()[:100]) is not None


def _notation(lines: list[str]) -> Callable[[str], Parsed] | None:
    kept = [line.lstrip("\ufeff \t") for line in lines if line.strip()]
    if any(_BOSON.search(line) for line in kept):
        return _boson
    is_markup = kept and (kept[0].startswith("<") or not any(line.startswith(("{", "[")) for line in kept))
    if is_markup and any(_ELEMENT.search(line) for line in kept):
        return _xml
    slashed = [[found[2] for word in line.split() if (found := _SLASHED.fullmatch(word))] for line in kept]
    words = sum(map(len, slashed))
    if kept and all(slashed) and len(set(chain.from_iterable(slashed))) <= max(8, words // 4):
        return _slashed
    return None


def read(path: str | Path, labels: LabelSet | None = None, *, warn: Note = ignore, **_: Any) -> Iterator[Example]:
    """Raises `DataError` with each faulty line, or `NerError` if there is no sentence, at the end."""
    path, faults = Path(path).expanduser(), Faults(str(path))
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    for file in files:
        for example in _read(file, labels, faults, warn):
            group = file.stem if len(files) >= DOCUMENTS else ""
            yield replace(example, id=f"{file.stem}:{example.id}", group=group) if path.is_dir() else example
    faults.finish("no sentences", "write one sentence per line")


def _read(path: Path, labels: LabelSet | None, faults: Faults, warn: Note) -> Iterator[Example]:
    name, lines = path.name, list(number_lines(lines_of(path)))
    parse = _notation([raw.decode(errors="replace") for _, raw in lines[:100]]) or _slashed
    if parse is _xml and (row := _row_element([raw.decode(errors="replace") for _, raw in lines])):
        parse = partial(_xml, rows=(*_SENTENCES, row))
        warn(f"lines within <{row}>, taken for sentences", name)
    for number, raw in lines:
        place = f"{name}:{number}"
        with faults.reading(place) as report:
            text, marked = parse(decode_line(raw))
            if not text.strip():  # a line of markup alone
                faults.rows -= 1
                continue
            reader = EntityReader(text, labels, report)
            found = (entity for mark in marked for entity in reader.at(*mark))
            entities = distinct(found, partial(note_at, place, warn))
            if not faults.found:
                yield Example(str(faults.rows), text, entities, place)


def _boson(line: str) -> Parsed:
    text, marked, at = "", list[tuple[str, int, int]](), 0
    opened: list[tuple[str, int]] = []
    for found in _BRACES.finditer(line):
        text += line[at : found.start()]
        at = found.end()
        if found[1]:
            opened.append((found[1].strip(), len(text)))
        elif opened:
            marked.append((*opened.pop(), len(text)))
        else:
            text += found[0]
    text += line[at:]
    if opened or "{{" in text or "}}" in text:
        raise LineFault(f"{quote(line)} has braces that mark no entity", remedy="write {{label:text}}")
    return text, marked


def _slashed(line: str) -> Parsed:
    if bracketed := _BRACKETS.search(line):
        remedy = (
            "write it as one word, 中国政府/nt, and name the labels of entities with --labels (labels: in a recipe)"
        )
        raise LineFault(f"{quote(bracketed[0])} are several words with a tag, as in the PFR corpus", remedy=remedy)
    found = [(word, _SLASHED.fullmatch(word)) for word in line.split()]
    words = [marked[1] if marked else word for word, marked in found]
    named = [marked[2] if marked else "o" for _, marked in found]
    text, starts = join(words, words=True)
    spans = zip(named, starts, words, strict=True)
    return text, [(label, start, start + len(word)) for label, start, word in spans if label not in ("o", "O")]


def _row_element(lines: list[str]) -> str | None:
    """The name of the element that each of most lines is, some with others in it: <row>…</row>."""
    matches = filter(None, (_ALONE.fullmatch(line.strip()) for line in lines))
    found = [alone for alone in matches if f"</{alone[1]}>" not in alone[2]]
    around = Counter(alone[1] for alone in found)
    name, number = max(around.items(), key=lambda item: item[1], default=("", 0))
    nests = any(alone[1] == name and "<" in alone[2] for alone in found)
    return name if nests and 2 * number > len(lines) and name.lower() not in _SENTENCES else None


def _xml(line: str, rows: tuple[str, ...] = _SENTENCES) -> Parsed:
    """The text of a line and its elements, besides one around the whole line that is of `rows`. Markup alone, such as
    `<doc>`, is no sentence."""
    stripped = line.strip().removeprefix("\ufeff")
    if re.fullmatch(r"<[?!/]?[^<>]*>", stripped):
        return "", []
    try:
        root = ElementTree.fromstring(f"<s>{_LITERAL.sub(lambda sign: escape(sign[0]), stripped)}</s>")
    except ElementTree.ParseError as error:
        remedy = "close each element in its line, and write a < that begins none as &lt;"
        raise LineFault(f"{quote(line)} is not XML ({error})", remedy=remedy) from error
    outer = list(root)
    alone = len(outer) == 1 and not (root.text or "").strip() and not (outer[0].tail or "").strip()
    if alone and (outer[0].tag in rows or outer[0].tag.lower() in rows):
        root = outer[0]  # <s>…</s> around a sentence
    if any(map(_is_beside, root.iter())) or (alone and _PLACES & outer[0].attrib.keys()):
        remedy = 'write rows of {"text": …, "entities": [{"label", "start", "end"}]} (JSONL)'
        raise LineFault(f"{quote(line)} has its entities beside the text, not in it", remedy=remedy)
    text, marked = "", list[tuple[str, int, int]]()

    def walk(element: ElementTree.Element) -> None:
        nonlocal text
        text += element.text or ""
        for child in element:
            start = len(text)
            walk(child)
            if start == len(text):
                raise LineFault(f"{quote(line)} has a <{child.tag}> around nothing", remedy="take it out")
            marked.append((_label_of(child, line), start, len(text)))
            text += child.tail or ""

    walk(root)
    return text, marked


def _is_beside(element: ElementTree.Element) -> bool:
    """Whether an element holds one of a sentence and, beside it, others whose texts are parts of that sentence."""
    sentences = ["".join(child.itertext()) for child in element if child.tag.lower() in _SENTENCES]
    others = ["".join(child.itertext()) for child in element if child.tag.lower() not in _SENTENCES]
    loose = "".join(filter(None, [element.text, *(child.tail for child in element)]))
    return bool(len(sentences) == 1 and others and not loose.strip() and all(one in sentences[0] for one in others))


def _label_of(element: ElementTree.Element, line: str) -> str:
    """The label that an element says by an attribute, or its name. Raises `LineFault` for several such attributes."""
    if key := next((key for key in _TYPES if key in element.attrib), None):
        return element.attrib[key]
    keys = [key for key in element.attrib if key.lower() not in _UNTOLD]
    if element.tag.lower() not in _GENERIC or not keys:
        return element.tag
    if len(keys) > 1:
        what = f"{quote(line)} has <{element.tag}> with {' and '.join(map(quote, keys))}, of which one is the label"
        raise LineFault(what, remedy='call it "type"')
    return element.attrib[keys[0]]
