"""JSON rows, a line each: the reader and writer that the JSON formats share.

In: lines of bytes, the name of their file, a function that reads the annotation of a row. Out: `Example`s, or one
`DataError` with each fault and its line. Knows nothing of where files lie, tokens or models.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...codec import unique_keys
from ...entities import Entity, Example, LabelSet, NerError
from .errors import Faults, LineFault, Note, Report, ignore, quote
from .mentions import EntityReader, distinct

HALF_PAIR = re.compile("[\ud800-\udfff]")

EntitiesOf = Callable[[dict[str, Any], EntityReader], Iterable[Entity]]
"""Reads the annotation of a row, with the reader of its text."""

_READ = frozenset({"id", "text", "label", "labels", "entities"})
_READ_OF_ITEMS = frozenset({"id", "label", "start", "end", "start_offset", "end_offset", "text", "surface", "score"})


def lines_of(path: str | Path) -> Iterator[bytes]:
    """The lines of a file, read as they are needed, split at line feeds only. Raises `NerError` if it cannot be read.

    `str.splitlines` would also split at a U+2028 inside a text.
    """
    try:
        with Path(path).expanduser().open("rb") as lines:
            yield from lines
    except OSError as error:
        remedy = f"check the path, relative to {Path.cwd()}"
        raise NerError(f"cannot be read ({error.strerror})", place=path, remedy=remedy) from error


def read_rows(
    lines: Iterable[bytes],
    path: str | Path,
    labels: LabelSet | None,
    entities_of: EntitiesOf,
    *,
    number_from: int | None = None,
    note: Note = ignore,
) -> Iterator[Example]:
    """The examples of a file's lines, one at a time; `path` is its name in messages.

    A row without an id gets the number of its line, or of its row from `number_from` on. `note` gets the keys that are
    not read. Raises `DataError` with all faults, or `NerError` if there is no row, after the last line: the examples
    before are valid only if it does not. Only the ids stay in memory.
    """
    name, faults = Path(path).name, Faults(str(path))
    for line, raw in number_lines(lines):
        report = faults.row(f"{name}:{line}")
        try:
            row = json_object(raw)
        except LineFault as fault:
            report(str(fault))
            continue
        default = line if number_from is None else faults.rows - 1 + number_from
        identity = identity_of(row, str(default), report)
        faults.check_id(identity, line, report)
        text = text_of(row, report)
        if text is not None:
            entities = distinct(entities_of(row, EntityReader(text, labels, report)), report)
            if not faults.found:
                yield Example(identity, text, entities, f"{name}:{line}")
        if note is not ignore:
            for key in _unread(row):
                note(f"the key {key}", f"{name}:{line}")
    faults.finish("no rows", "write one JSON object a line, with a text and its entities")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 with line feeds, as they come."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON object a line."""
    write_lines(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def rows_in(head: bytes) -> Iterator[dict[str, Any]]:
    """The rows at the beginning of a file that can be read; none unless its first line looks like an object."""
    if looks_like_object(head):
        for _, raw in number_lines(head.split(b"\n")):
            try:
                yield json_object(raw)
            except LineFault:
                continue


def looks_like_object(head: bytes) -> bool:
    """Whether the first line of a file has the braces of a JSON object."""
    first = next((raw.strip() for _, raw in number_lines(head.split(b"\n"))), b"")
    return first.startswith(b"{") and first.endswith(b"}")


def number_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Line numbers and lines, without blank lines, line ends and a byte order mark."""
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line.rstrip(b"\r\n")


def _unread(row: dict[str, Any]) -> set[str]:
    """The keys of a row and of its entities that hold something and are not read, quoted."""
    keys = {quote(key) for key in row.keys() - _READ if row[key] not in (None, "", [], {})}
    items = row.get("entities")
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            keys |= {f"{quote(key)} of entities" for key in item.keys() - _READ_OF_ITEMS}
    return keys


def decode_line(raw: bytes) -> str:
    """The line as text. Raises `LineFault` if it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        fault = f"byte 0x{raw[error.start]:02x} at offset {error.start} of the line is not UTF-8"
        raise LineFault(fault, remedy="save the file as UTF-8 (from GBK: iconv -f GB18030 -t UTF-8)") from error


def json_object(raw: bytes) -> dict[str, Any]:
    """The line as a JSON object. Raises `LineFault` if it is none, or has a key twice, of which JSON keeps the last."""
    row = json_value(raw, "write one JSON object a line")
    if not isinstance(row, dict):
        raise LineFault(f"{quote(row)} is not an object", remedy="write one JSON object a line")
    return row


def json_value(raw: bytes, remedy: str) -> Any:
    """The value that the bytes hold as JSON. Raises `LineFault` as `json_object` does."""
    text = decode_line(raw)
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, character" if error.lineno > 1 else "character"
        what = f"{quote(text)} is not JSON ({error.msg} at {place} {error.colno})"
        raise LineFault(what, remedy=remedy) from error
    except NerError as error:
        raise LineFault(error.what, remedy=error.remedy) from None
    except (ValueError, RecursionError) as error:
        raise LineFault(f"{quote(text)} cannot be read as JSON ({error})", remedy=remedy) from error
    if b"\\u" in raw and (half := HALF_PAIR.search(json.dumps(value, ensure_ascii=False))):
        what = f"{quote(half[0])} is half a surrogate pair, which UTF-8 cannot encode"
        raise LineFault(what, remedy="write the character whole")
    return value


def identity_of(row: dict[str, Any], default: str, report: Report) -> str:
    """The "id" of the row as a string, or the default; an id of another type is reported."""
    identity = row.get("id", default)
    if isinstance(identity, bool) or not isinstance(identity, (str, int)):
        report(f'"id" is {quote(identity)}; make it a string or a whole number, or leave it out')
        return default
    return str(identity)


def text_of(row: dict[str, Any], report: Report) -> str | None:
    """The "text" of the row; None, and a report, if there is none to work on."""
    if "text" not in row:
        report(f'{quote(row)} lacks "text"; give it its sentence')
    elif not isinstance(text := row["text"], str):
        report(f'"text" is {quote(text)}; make it a string')
    elif not text.strip():
        report(f"the text {quote(text)} is empty; delete the row")
    else:
        return text
    return None
