"""Rows of JSON to `Example`s: the content of one annotated file, with every fault found in it.

In: bytes, or a stream of byte lines, and the name of the file. Out: `Example`s, or one `DataError` that holds each
fault with its line. Knows nothing of where files lie, of tokens or of models.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...entities import Entity, Example, LabelSet, NerError
from .errors import DataError, LineFault, Note, Report, ignore, quote
from .mentions import entities_of as own_forms
from .mentions import once

_HALF_PAIR = re.compile("[\ud800-\udfff]")

EntitiesOf = Callable[[dict[str, Any], str, LabelSet | None, Report], Iterator[Entity]]
"""Reads the entities of a row: (row, text, labels, report) -> entities."""

_READ = frozenset({"id", "text", "label", "labels", "entities"})
_READ_OF_ITEMS = frozenset({"id", "label", "start", "end", "start_offset", "end_offset", "text", "surface", "score"})


def read_bytes(path: str | Path) -> bytes:
    """The content of a file that the user named; `NerError` where it cannot be read."""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise NerError(f"{path} cannot be read ({error.strerror}); check the path, {Path.cwd()} is here") from error


def lines_of(path: str | Path) -> Iterator[bytes]:
    """The lines of a file that the user named, read as they are asked for; raises as `read_bytes` does."""
    try:
        with Path(path).expanduser().open("rb") as lines:
            yield from lines
    except OSError as error:
        raise NerError(f"{path} cannot be read ({error.strerror}); check the path, {Path.cwd()} is here") from error


def parse(
    data: bytes, path: str, labels: LabelSet | None, *, cluener: bool = False, unlabelled: bool = False
) -> list[Example]:
    """The examples in the content of a file, as `read_rows` reads its lines."""
    # Split on b"\n" alone: str.splitlines would cut a row at a U+2028 inside its text.
    return list(read_rows(data.split(b"\n"), path, labels, cluener=cluener, unlabelled=unlabelled))


def read_rows(
    lines: Iterable[bytes],
    path: str,
    labels: LabelSet | None,
    *,
    cluener: bool = False,
    unlabelled: bool = False,
    entities_of: EntitiesOf | None = None,
    note: Note = ignore,
) -> Iterator[Example]:
    """The examples of a file's lines, one at a time; `path` is its name in messages.

    Raises at the end: `DataError` with all faults of the file, `NerError` where it has no row. What has come until
    then counts only if it does not. What stays in memory is the ids.

    `cluener` reads CLUENER's own dialect: "label" only, inclusive ends, ids counted from 0. `unlabelled` accepts a file
    of which no row has a "label", as a test set is; what its first row has, the others must have too. `entities_of`
    reads another dialect's annotation of a row. `note` is told of what a row says beside text, entities and id.
    """
    name, faults, rows = Path(path).name, list[str](), 0
    lines_of_ids = dict[str, int]()
    for line, row in _rows(lines):
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
                if entities_of:
                    entities = once(entities_of(row, text, labels, in_row.append), in_row.append)
                else:
                    entities = own_forms(row, text, labels, cluener, unlabelled, in_row.append)
                if not in_row and not faults:
                    yield Example(identity, text, entities, f"{name}:{line}")
            if note is not ignore:
                for key in _unread(row):
                    note(f"the key {key}", f"{name}:{line}")
        faults.extend(f"{name}:{line}: {fault}" for fault in in_row)
    if faults:
        raise DataError(path, faults, rows)
    if not rows:
        raise NerError(f"{path} has no rows; write one JSON object a line, with a text and its entities")


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


def _unread(row: dict[str, Any]) -> set[str]:
    """The keys of a row and of its entities that say something and are not read, quoted."""
    keys = {quote(key) for key in row.keys() - _READ if row[key] not in (None, "", [], {})}
    items = row.get("entities")
    for item in items if isinstance(items, list) else ():
        keys |= {
            f"{quote(key)} of entities" for key in (item.keys() if isinstance(item, dict) else set()) - _READ_OF_ITEMS
        }
    return keys


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
    row = json_value(raw, "write one JSON object a line")
    if not isinstance(row, dict):
        raise LineFault(f"{quote(row)} is not an object; write one JSON object a line")
    return row


def json_value(raw: bytes, remedy: str) -> Any:
    """What the bytes say in JSON; `LineFault`, as for `json_object`, where they do not."""
    text = decoded(raw)
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise LineFault(
            f"{quote(text)} is not JSON ({error.msg} at {place}character {error.colno}); {remedy}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise LineFault(f"{quote(text)} cannot be read as JSON ({error}); {remedy}") from error
    if b"\\u" in raw and (half := _HALF_PAIR.search(json.dumps(value, ensure_ascii=False))):
        raise LineFault(f"{quote(half[0])} is half a surrogate pair, which no file can hold; write the character whole")
    return value


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
