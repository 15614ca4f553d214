"""Rows of JSON to `Example`s: the content of one annotated file, with every fault found in it.

In: bytes, or a stream of byte lines, and the name of the file. Out: `Example`s, or one `DataError` that holds each
fault with its line. Knows nothing of where files lie, of tokens or of models.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..codec import ground
from ..entities import Entity, Example, LabelSet, NerError

SHOWN_FAULTS = 20
"""How many faults a `DataError` prints; `.faults` has them all."""

_HALF_PAIR = re.compile("[\ud800-\udfff]")

Report = Callable[[str], None]
"""Takes one fault of a row: value and remedy; the place is put before it."""


class DataError(NerError):
    """Every fault of one file. `faults` are all of them, `train.json:412: …` each; the message prints the first 20.

    >>> print(DataError("data/train.jsonl", ["train.jsonl:1: the text is empty; delete the row"], 7))
    data/train.jsonl has 1 fault in 7 rows
      train.jsonl:1: the text is empty; delete the row
    """

    def __init__(self, path: str, faults: list[str], rows: int) -> None:
        super().__init__(path, faults, rows)  # as they came, so that the error survives being pickled between processes
        self.path, self.faults, self.rows = path, faults, rows

    def __str__(self) -> str:
        head = f"{self.path} has {_count(len(self.faults), 'fault')} in {_count(self.rows, 'row')}"
        more = len(self.faults) - SHOWN_FAULTS
        return "\n  ".join([head, *self.faults[:SHOWN_FAULTS], *([f"… and {more:,} more"] if more > 0 else [])])


class LineFault(Exception):
    """What makes a whole line unreadable."""


def read_bytes(path: str | Path) -> bytes:
    """The content of a file that the user named; `NerError` where it cannot be read."""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise NerError(f"{path} cannot be read ({error.strerror}); check the path, {Path.cwd()} is here") from error


def parse(
    data: bytes, path: str, labels: LabelSet | None, *, cluener: bool = False, unlabelled: bool = False
) -> list[Example]:
    """The examples in the content of a file; `path` is its name in messages.

    `cluener` reads CLUENER's own dialect: "label" only, inclusive ends, ids counted from 0. `unlabelled` accepts a file
    of which no row has a "label", as a test set is; what its first row has, the others must have too.
    """
    name, faults, rows = Path(path).name, list[str](), 0
    examples, lines_of_ids = list[Example](), dict[str, int]()
    # Split on b"\n" alone: str.splitlines would cut a row at a U+2028 inside its text.
    for line, row in _rows(data.split(b"\n")):
        rows += 1
        in_row = list[str]()
        if isinstance(row, LineFault):
            in_row.append(str(row))
        else:
            if unlabelled and rows == 1:
                unlabelled = "label" not in row
            identity = identity_of(row, str(rows - 1 if cluener else line), in_row.append)
            if (first := lines_of_ids.setdefault(identity, line)) != line:
                in_row.append(f"the id {quote(identity)} is line {first}'s too; give each row its own")
            text = text_of(row, in_row.append)
            if text is not None:
                entities = _entities(row, text, labels, cluener, unlabelled, in_row.append)
                if not in_row:
                    examples.append(Example(identity, text, entities, f"{name}:{line}"))
        faults.extend(f"{name}:{line}: {fault}" for fault in in_row)
    if faults:
        raise DataError(path, faults, rows)
    if not examples:
        raise NerError(f"{path} has no rows; write one JSON object a line, with a text and its entities")
    return examples


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Line numbers and lines, without blank lines, line ends and a byte order mark."""
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line.rstrip(b"\r\n")


def _rows(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | LineFault]]:
    for number, raw in numbered(lines):
        try:
            yield number, json_object(raw)
        except LineFault as fault:
            yield number, fault


def decoded(raw: bytes) -> str:
    """The line as text; `LineFault` where it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise LineFault(
            f"byte 0x{raw[error.start]:02x} at offset {error.start} of the line is not UTF-8; "
            "save the file as UTF-8 (from GBK: iconv -f GB18030 -t UTF-8)"
        ) from error


def json_object(raw: bytes) -> dict[str, Any]:
    """The line as a JSON object; `LineFault` where it is none, or writes a key twice, of which JSON would keep one."""
    text = decoded(raw)
    try:
        row = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise LineFault(
            f"{quote(text)} is not JSON ({error.msg} at character {error.colno}); write one JSON object a line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise LineFault(f"{quote(text)} cannot be read as JSON ({error}); write one JSON object a line") from error
    if not isinstance(row, dict):
        raise LineFault(f"{quote(row)} is not an object; write one JSON object a line")
    if b"\\u" in raw and (half := _HALF_PAIR.search(json.dumps(row, ensure_ascii=False))):
        raise LineFault(f"{quote(half[0])} is half a surrogate pair, which no file can hold; write the character whole")
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise LineFault(f"the key {quote(twice)} stands twice in one object; merge the two")
    return row


def identity_of(row: dict[str, Any], default: str, report: Report) -> str:
    """The row's "id" as a string, or the default; one of another type is reported."""
    identity = row.get("id", default)
    if isinstance(identity, bool) or not isinstance(identity, (str, int)):
        report(f'"id" is {quote(identity)}; make it a string or a whole number, or leave it out')
        return default
    return str(identity)


def text_of(row: dict[str, Any], report: Report) -> str | None:
    """The row's "text"; None, and a report, where there is none to work on."""
    if "text" not in row:
        report(f'{quote(row)} lacks "text"; give it its sentence')
        return None
    text = row["text"]
    if not isinstance(text, str):
        report(f'"text" is {quote(text)}; make it a string')
        return None
    if not text.strip():
        report(f"the text {quote(text)} is empty; delete the row")
        return None
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy's tail: which known name was meant, where one is near.

    >>> nearest("adress", ["address", "book"])
    '; did you mean "address"?'
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {quote(close[0])}?" if close else ""


def quote(value: object) -> str:
    """A value as JSON writes it, cut to 60 characters, safe to print.

    >>> print(quote("叶老桂"), quote({"text": 3}), quote(None))
    "叶老桂" {"text": 3} null
    """
    shown = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _entities(
    row: dict[str, Any], text: str, labels: LabelSet | None, cluener: bool, unlabelled: bool, report: Report
) -> tuple[Entity, ...]:
    keys = [key for key in (("label",) if cluener else ("label", "entities")) if key in row]
    if unlabelled:
        if keys:
            report('the row has a "label" and the first row has none; label all rows of the file or none')
        return ()
    if not keys:
        wanted, none = ('"label"', '"label": {}') if cluener else ('"label" or "entities"', '"entities": []')
        report(f"{quote(row)} lacks {wanted}; a sentence without entities has {none}")
        return ()
    if len(keys) == 2:
        report('the row has both "label" and "entities"; keep one')
        return ()
    entities: dict[tuple[str, int, int], Entity] = {}
    found = _from_items if keys == ["entities"] else _from_label
    for entity in found(row[keys[0]], text, labels, cluener, report):
        if (key := (entity.label, *entity.span)) in entities:
            place = f"[{entity.start}, {entity.end})"
            report(f"{entity.label} {quote(entity.text)} at {place} is given twice; delete one")
        entities[key] = entity
    return tuple(entities.values())


def _from_label(tree: object, text: str, labels: LabelSet | None, inclusive: bool, report: Report) -> Iterator[Entity]:
    """The entities of {label: [surface, …]} and of {label: {surface: [[start, end], …]}}."""
    if not isinstance(tree, dict):
        report(f'"label" is {quote(tree)}; make it an object, {{"company": ["三星"]}}')
        return
    to_ground: dict[tuple[str, str], None] = {}
    for label, surfaces in tree.items():
        if not _is_label(label, labels, report):
            continue
        if not isinstance(surfaces, (list, dict)):
            report(f"label {quote(label)} holds {quote(surfaces)}; make it a list of surfaces")
            continue
        for surface in surfaces:
            if not isinstance(surface, str) or not surface:
                report(f"label {quote(label)} holds the surface {quote(surface)}; make it a non-empty string")
            elif isinstance(surfaces, dict):
                yield from _from_spans(label, surface, surfaces[surface], text, inclusive, report)
            elif surface not in text:
                report(f"{label} {quote(surface)} is not in the text {quote(text)}; correct it or delete it")
            elif (label, surface) in to_ground:
                report(f"{label} {quote(surface)} is given twice; name it once, every occurrence of it is taken")
            else:
                to_ground[label, surface] = None
    yield from ground(text, to_ground)


def _from_spans(
    label: str, surface: str, spans: object, text: str, inclusive: bool, report: Report
) -> Iterator[Entity]:
    if not isinstance(spans, list) or not spans:
        report(f"{label} {quote(surface)} has the spans {quote(spans)}; give it a list, [[0, 2]]")
        return
    for span in spans:
        if not isinstance(span, list) or len(span) != 2:
            report(f"{label} {quote(surface)} has the span {quote(span)}; make it [start, end]")
        elif entity := _entity(label, (surface,), span[0], span[1], text, inclusive, report):
            yield entity


def _from_items(items: object, text: str, labels: LabelSet | None, inclusive: bool, report: Report) -> Iterator[Entity]:
    """The entities of [{"label", "start", "end"}, …]."""
    if not isinstance(items, list):
        report(f'"entities" is {quote(items)}; make it a list, [{{"label": "company", "start": 0, "end": 2}}]')
        return
    for item in items:
        missing = [key for key in ("label", "start", "end") if not isinstance(item, dict) or key not in item]
        if missing:
            report(f"the entity {quote(item)} lacks {', '.join(missing)}; give it a label, a start and an end")
            continue
        score = item.get("score")
        if score is not None and (type(score) not in (int, float) or not 0 <= score <= 1):
            report(f"the entity {quote(item)} has the score {quote(score)}; make it a number from 0 to 1")
            score = None
        if _is_label(item["label"], labels, report):
            surfaces = tuple(item[key] for key in ("text", "surface") if key in item)
            entity = _entity(item["label"], surfaces, item["start"], item["end"], text, inclusive, report)
            if entity:
                yield entity if score is None else replace(entity, score=score)


def _is_label(label: object, labels: LabelSet | None, report: Report) -> bool:
    if not isinstance(label, str) or not label:
        report(f"the label is {quote(label)}; make it a non-empty string")
        return False
    if labels is not None and label not in labels:
        meant = nearest(label, labels.names)
        report(f"label {quote(label)} is unknown{meant or '; the known ones are ' + ', '.join(labels.names)}")
        return False
    return True


def _entity(
    label: str, surfaces: tuple[object, ...], start: object, end: object, text: str, inclusive: bool, report: Report
) -> Entity | None:
    """The entity at a span, if the span is in the text and holds each of the surfaces given for it."""
    if type(start) is int and type(end) is int:  # not isinstance, to which True is an int
        stop = end + inclusive
        if 0 <= start < stop <= len(text):
            held = text[start:stop]
            wrong = [surface for surface in surfaces if surface != held]
            if not wrong:
                return Entity(label, held, start, stop)
            fault = f"holds {quote(held)}, the surface is {quote(wrong[0])}"
        else:
            fault = f"of {label} is empty or leaves the text, which has {_count(len(text), 'character')}"
    else:
        fault = f"of {label} is not made of whole numbers, which count characters from 0"
    remedy = (
        "CLUENER's ends are inclusive; if this file's are not, name it .jsonl."
        if inclusive
        else "Ends are exclusive here; if this file's are inclusive, as CLUENER's are, add 1 to each."
    )
    report(f"the span [{quote(start)}, {quote(end)}{']' if inclusive else ')'} {fault}. {remedy}")
    return None
