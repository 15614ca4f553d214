"""JSON rows, a line each: the reader and writer that the JSON formats share.

In: lines of bytes, the name of their file, a function that reads the annotation of a row. Out: `Example`s, or one
`DataError` with each fault and its line. Knows nothing of where files lie, tokens or models.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ...codec import unique_keys
from ...entities import Entity, Example, LabelSet, NerError
from .errors import Faults, LineFault, Note, Report, ignore, quote
from .mentions import EntityReader, distinct
from .offsets import Survey

HALF_PAIR = re.compile("[\ud800-\udfff]")

EntitiesOf = Callable[[dict[str, Any], EntityReader], Iterable[Entity]]
"""Reads the annotation of a row, with the reader of its text."""

ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")
"""The beginning of a JSON array of objects."""

MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
"""Byte order marks of encodings other than UTF-8; the mark of UTF-16 begins that of UTF-32."""

SAMPLE = 1_000
"""Rows that are surveyed before a file is read; beyond them, those that `_SPECIAL` matches."""

_GAP = re.compile(r"[\s,]*")

_SPECIAL = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]|\\r\\n|  ")
"""What a row has in which offsets may count something else than characters (`offsets.SPECIAL`)."""

_READ = frozenset({"id", "text", "label", "labels", "entities"})
_READ_OF_ITEMS = frozenset({"id", "label", "start", "end", "start_offset", "end_offset", "text", "surface", "score"})


def lines_of(path: str | Path) -> Iterator[bytes]:
    """The lines of a file, read as they are needed, split at line feeds only. Raises `NerError` if it cannot be read.

    A byte order mark tells UTF-16, whose lines come as UTF-8. `str.splitlines` would also split at a U+2028 inside a
    text.
    """
    try:
        with Path(path).expanduser().open("rb") as lines:
            mark = lines.peek(4)  # not read: a pipe cannot be wound back
            encoding = next((name for start, name in MARKS if mark.startswith(start)), None)
            if encoding is None and b"\0" in mark[:4]:
                raise NerError("looks like UTF-16 without its mark", place=path, remedy="save the file as UTF-8")
            if encoding is None:
                yield from lines
            else:
                yield from (line.encode() for line in io.TextIOWrapper(lines, encoding, newline="\n"))
    except UnicodeDecodeError as error:
        what = f"begins with the mark of {error.encoding.upper()}, but is not written in it ({error.reason})"
        raise NerError(what, place=path, remedy="save the file as UTF-8") from error
    except OSError as error:
        remedy = f"check the path, relative to {Path.cwd()}"
        raise NerError(f"cannot be read ({error.strerror})", place=path, remedy=remedy) from error


def read_rows(
    lines: Callable[[], Iterable[bytes]],
    path: str | Path,
    labels: LabelSet | None,
    entities_of: EntitiesOf,
    *,
    number_from: int | None = None,
    note: Note = ignore,
    warn: Note = ignore,
) -> Iterator[Example]:
    """The examples of a file's rows, one at a time: an object a line, or a JSON array of objects (in memory).

    `lines` opens the file, which is looked through once before it is read; `path` is its name in messages. A row
    without an id gets the number of its line, or of its row from `number_from` on. `note` gets the keys that are not
    read, `warn` what is read otherwise than it is written. Raises `DataError` with all faults, or `NerError` if there
    is no row, after the last line: the examples before are valid only if it does not. Only the ids stay in memory.
    """
    name, faults = Path(path).name, Faults(str(path))
    survey = _survey(lines(), name, path, entities_of)
    unit = survey.unit()
    for what, where in survey.warnings():
        warn(what, where)
    for place, line, raw in _numbered(lines(), name, path):
        report = faults.row(place)
        faults.unit = "line" if place == f"{name}:{line}" else "row"
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
            reader = EntityReader(text, labels, report, unit=unit, warn=partial(warn_at, warn, place))
            entities = distinct(entities_of(row, reader), report)
            if not faults.found:
                yield Example(identity, text, entities, place)
        if note is not ignore:
            for key in _unread(row):
                note(f"the key {key}", place)
    faults.finish("no rows", "write one JSON object a line, with a text and its entities")


def warn_at(warn: Note, place: str, what: str) -> None:
    """`warn` with the place first, to be bound to that."""
    warn(what, place)


def _survey(lines: Iterable[bytes], name: str, path: str | Path, entities_of: EntitiesOf) -> Survey:
    survey = Survey()
    for number, (place, _, raw) in enumerate(_numbered(lines, name, path)):
        if number >= SAMPLE and not _SPECIAL.search(raw):
            continue
        try:
            row = json_object(raw)
        except LineFault:
            continue
        if (text := text_of(row, unreported)) is not None:
            reader = EntityReader(text, None, unreported, see=partial(survey.see, place))
            for _ in entities_of(row, reader):
                pass
    return survey


def unreported(_: str) -> None:
    """The `Report` of a survey: the reading that follows reports all faults."""


def _numbered(lines: Iterable[bytes], name: str, path: str | Path) -> Iterator[tuple[str, int, bytes]]:
    """Place, number and content of each row. Raises `NerError` if a JSON array cannot be read."""
    left, first = iter(lines), list[bytes]()
    for line in left:
        first.append(line)
        if line.removeprefix(codecs.BOM_UTF8).strip() not in (b"", b"["):
            break
    if not ARRAY.match(b"".join(first)):
        yield from ((f"{name}:{number}", number, raw) for number, raw in number_lines(chain(first, left)))
        return
    try:
        items = json_value(b"".join(chain(first, left)).removeprefix(codecs.BOM_UTF8), "make it one JSON array of rows")
    except LineFault as fault:
        raise NerError(fault.what, place=path, remedy=fault.remedy) from None
    for number, item in enumerate(items, start=1):
        yield f"{name}: row {number}", number, json.dumps(item, ensure_ascii=False).encode()


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 with line feeds, as they come."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON object a line."""
    write_lines(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def rows_in(head: bytes) -> Iterator[dict[str, Any]]:
    """The rows at the beginning of a file that can be read, of lines or of an array; none if it begins otherwise."""
    if ARRAY.match(head):
        text, decoder = head.decode(errors="replace"), json.JSONDecoder()
        at = text.index("[") + 1
        with suppress(ValueError, RecursionError):  # the end of the array or of the head, or a fault
            while True:
                row, at = decoder.raw_decode(text, _GAP.match(text, at).end())  # type: ignore[union-attr]
                if isinstance(row, dict):
                    yield row
    elif looks_like_object(head):
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
    read = _READ if "text" in row else _READ | {"data"}
    keys = {quote(key) for key in row.keys() - read if row[key] not in (None, "", [], {})}
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
        remedy = "save the file as UTF-8 (from GBK: iconv -f GB18030 -t UTF-8)"
        if b"\0" in raw:  # as in UTF-16, but in no other text
            fault, remedy = "the line is not UTF-8, but looks like UTF-16", "save the file as UTF-8"
        raise LineFault(fault, remedy=remedy) from error


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


def lacks_entities(row: dict[str, Any], key: str, none: object) -> str:
    """The fault of a row without annotation under `key`, which its format would write as `none` if it had no entity.

    >>> lacks_entities({"text": "三星", "spans": [{"start": 0}]}, "entities", []).rpartition("; ")[2]
    'rename "spans" to "entities" if it holds them'
    """
    others = [name for name, value in row.items() if isinstance(value, (list, dict)) and value and name != "entities"]
    remedy = f'rename {quote(others[0])} to "entities" if it holds them' if len(others) == 1 else ""
    return f"{quote(row)} lacks {quote(key)}; {remedy or f'a sentence without entities has {quote(key)}: {none}'}"


def text_of(row: dict[str, Any], report: Report) -> str | None:
    """The "text" of the row, or "data" as older doccano calls it; None, and a report, if there is none to work on."""
    key = "data" if "text" not in row and isinstance(row.get("data"), str) else "text"
    if key not in row:
        remedy = "give it its sentence"
        if isinstance(row.get("data"), dict):
            remedy = "a task of Label Studio: export the project as JSON, one array of tasks"
        elif len(strings := [name for name, value in row.items() if isinstance(value, str) and name != "id"]) == 1:
            remedy = f'rename {quote(strings[0])} to "text" if that is its sentence'
        report(f'{quote(row)} lacks "text"; {remedy}')
    elif not isinstance(text := row[key], str):
        report(f'"text" is {quote(text)}; make it a string')
    elif not text.strip():
        report(f"the text {quote(text)} is empty; delete the row")
    else:
        return text
    return None
