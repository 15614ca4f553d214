"""JSON rows, one per line: the reader and writer that the JSON formats share.

In: lines of bytes, the name of their file, a function that reads the annotation of a row. Out: `Example`s, or one
`DataError` with each fault and its line. Knows nothing of where files lie, tokens or models.
"""

from __future__ import annotations

import codecs
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
from ...files import json_line
from .errors import Faults, LineFault, Note, Report, ignore, quote
from .lines import decode_line, number_lines, write_lines
from .mentions import EntityReader, distinct
from .offsets import Survey

HALF_PAIR = re.compile("[\ud800-\udfff]")

EntitiesOf = Callable[[dict[str, Any], EntityReader], Iterable[Entity]]
"""Reads the annotation of a row, with the reader of its text."""

RowOf = Callable[[Any], dict[str, Any] | str]
"""The row that a JSON value stands for, or why it is left out. Raises `LineFault` if it stands for none."""

ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*[\[{]")
"""The beginning of a JSON array of objects, or of arrays."""

SAMPLE = 1_000
"""Rows that are surveyed before a file is read; beyond them, those that `_SPECIAL` matches."""

ONE_A_LINE = "write one JSON object a line, as `jq -c .` does"

_GAP = re.compile(r"[\s,]*")

_SPECIAL = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]|\\r\\n|  ")
"""What a row has in which offsets may count something else than characters (`offsets.SPECIAL`)."""

_ANNOTATIONS = ("entities", "label", "labels", "spans")
_READ = frozenset({"id", "group", "text", "label", "labels", "entities"})
_READ_OF_ITEMS = frozenset({"id", "label", "start", "end", "start_offset", "end_offset", "text", "surface", "score"})


def as_object(value: Any) -> dict[str, Any]:
    """The value, which is an object. Raises `LineFault` if it is none."""
    if not isinstance(value, dict):
        raise LineFault(f"{quote(value)} is not an object", remedy=ONE_A_LINE)
    return value


def read_rows(
    lines: Callable[[], Iterable[bytes]],
    path: str | Path,
    labels: LabelSet | None,
    entities_of: EntitiesOf,
    *,
    row_of: RowOf = as_object,
    unit: str = "row",
    note: Note = ignore,
    warn: Note = ignore,
    **_: Any,
) -> Iterator[Example]:
    """The examples of a file's rows, one at a time: one per line, or a JSON array of rows (in memory).

    `lines` opens the file, which is looked through once before it is read; `path` is its name in messages; rows are
    objects, or what `row_of` makes them of. A row without an id gets the number of its line, as in `read_texts`. `unit`
    is what messages call an item of an array. `note` gets the keys that are not read, `warn` what is read otherwise
    than it is written.
    Raises `DataError` with all faults, or `NerError` if there is no row, after the last line: the examples before are
    valid only if it does not. Only the ids stay in memory.
    """
    name, faults = Path(path).name, Faults(str(path))
    survey = Survey()
    for at, (place, _line, raw) in enumerate(numbered(lines(), name, path, unit)):
        if at < SAMPLE or _SPECIAL.search(raw):
            _see(survey, place, raw, entities_of, row_of)
    inclusive, counted = survey.inclusive, survey.unit()
    for what, where in survey.warnings():
        warn(what, where)
    if inclusive:
        warn("ends of spans that are inclusive, as their surfaces prove, read as such", name)
    for place, line, raw in numbered(lines(), name, path, unit):
        faults.unit = "line" if place == f"{name}:{line}" else unit
        with faults.reading(place) as report:
            row = row_of(json_value(raw, ONE_A_LINE))
            if isinstance(row, str):
                warn(row, place)
                continue
            identity, group = identity_of(row, str(line), report), identity_of(row, "", report, "group")
            faults.check_id(identity, line, report)
            if (text := text_of(row, report)) is not None:
                warn_here, note_here = (partial(note_at, place, tell) for tell in (warn, note))
                reader = EntityReader(text, labels, report, inclusive, counted, warn_here, note_here)
                entities = distinct(entities_of(row, reader), warn_here)
                if not faults.found:
                    yield Example(identity, text, entities, place, group)
            if note is not ignore:
                for key in _unread(row):
                    note(f"the key {key}", place)
    faults.finish("no rows", "write one JSON object a line, with a text and its entities")


def note_at(place: str, note: Note, what: str) -> None:
    note(what, place)


def _see(survey: Survey, place: str, raw: bytes, entities_of: EntitiesOf, row_of: RowOf) -> None:
    """Show the survey the spans of a row. Its faults are for the reading that follows."""
    with suppress(LineFault):
        row = row_of(json_value(raw, ONE_A_LINE))
        if not isinstance(row, str) and (text := text_of(row, ignore)) is not None:
            reader = EntityReader(text, None, ignore, see=partial(survey.see, place))
            for _ in entities_of(row, reader):
                pass


def numbered(
    lines: Iterable[bytes], name: str, path: str | Path, unit: str = "row"
) -> Iterator[tuple[str, int, bytes]]:
    """Place, number and content of each row. Raises `NerError` if a JSON array cannot be read."""
    left, first = iter(lines), list[bytes]()
    for line in left:
        first.append(line)
        if line.removeprefix(codecs.BOM_UTF8).strip() not in (b"", b"["):
            break
    if not ARRAY.match(b"".join(first)):
        if first and first[-1].removeprefix(codecs.BOM_UTF8).strip() == b"{":  # one object, or several, over many lines
            first, whole = [*first, *left], None
            with suppress(ValueError, RecursionError):
                whole = json.loads(b"".join(first))
            if remedy := rows_within(whole):
                raise NerError("is one JSON object around its rows", place=path, remedy=remedy)
        yield from ((f"{name}:{number}", number, raw) for number, raw in number_lines(chain(first, left)))
        return
    try:
        items = json_value(b"".join(chain(first, left)).removeprefix(codecs.BOM_UTF8), "make it one JSON array of rows")
    except LineFault as fault:
        raise NerError(fault.what, place=path, remedy=fault.remedy) from None
    for number, item in enumerate(items, start=1):
        yield f"{name}: {unit} {number}", number, json.dumps(item, ensure_ascii=False).encode()


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON object a line."""
    write_lines(path, map(json_line, rows))


def rows_in(head: bytes) -> Iterator[dict[str, Any]]:
    """The objects among `values_in`."""
    return (value for value in values_in(head) if isinstance(value, dict))


def values_in(head: bytes) -> Iterator[Any]:
    """The rows at the beginning of a file that can be read, of lines or of an array; none if it begins otherwise."""
    if ARRAY.match(head):
        text, decoder = head.decode(errors="replace"), json.JSONDecoder()
        at = text.index("[") + 1
        with suppress(ValueError, RecursionError):  # the end of the array or of the head, or a fault
            while True:
                row, at = decoder.raw_decode(text, _GAP.match(text, at).end())  # type: ignore[union-attr]
                yield row
    elif looks_like_object(head) or head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b'["'):
        for _, raw in number_lines(head.split(b"\n")):
            with suppress(LineFault):
                yield json_value(raw, ONE_A_LINE)


def looks_like_object(head: bytes) -> bool:
    """Whether the first line of a file has the braces of a JSON object."""
    first = next((raw.strip() for _, raw in number_lines(head.split(b"\n"))), b"")
    return first.startswith(b"{") and first.endswith(b"}")


def _unread(row: dict[str, Any]) -> set[str]:
    """The keys of a row and of its entities that hold something and are not read, quoted."""
    read = _READ if "text" in row else _READ | {"data"}
    keys = {quote(key) for key in row.keys() - read if row[key] not in (None, "", [], {})}
    items = row.get("entities")
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            keys |= {f"{quote(key)} of entities" for key in item.keys() - _READ_OF_ITEMS}
    return keys


def json_object(raw: bytes) -> dict[str, Any]:
    """The line as a JSON object. Raises `LineFault` if it is none, or has a key twice, of which JSON keeps the last."""
    return as_object(json_value(raw, ONE_A_LINE))


def json_value(raw: bytes, remedy: str, *, halves: bool = False) -> Any:
    """The value that the bytes hold as JSON; `halves` accepts half a surrogate pair. Raises `LineFault` as
    `json_object` does.
    """
    text = decode_line(raw)
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except NerError as error:
        raise LineFault(error.what, remedy=error.remedy) from None
    except (ValueError, RecursionError) as error:
        raise LineFault(f"{quote(text)} is not JSON ({error})", remedy=remedy) from error
    if not halves and b"\\u" in raw and (half := HALF_PAIR.search(json.dumps(value, ensure_ascii=False))):
        what = f"{quote(half[0])} is half a surrogate pair, which UTF-8 cannot encode"
        raise LineFault(what, remedy="write the character whole")
    return value


def identity_of(row: dict[str, Any], default: str, report: Report, key: str = "id") -> str:
    """The "id" of the row, or its "group", as a string, or the default; a value of another type is reported."""
    value = row.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        report(f"{quote(key)} is {quote(value)}; make it a string or a whole number, or leave it out")
        return default
    return str(value)


def lacks_entities(row: dict[str, Any], key: str, none: object) -> str:
    """The fault of a row without annotation under `key`, which its format would write as `none` if it had no entity."""
    return f"{quote(row)} lacks {quote(key)}; a sentence without entities has {quote(key)}: {none}"


def rows_within(value: Any) -> str | None:
    """How to take the rows out of a JSON object that is around them; None if it holds none.

    >>> rows_within({"data": [{"text": "三星", "entities": []}]}), rows_within({"text": "三星", "entities": []})
    ("take them out: jq -c '.data[]'", None)
    """

    def is_row(one: Any) -> bool:
        if isinstance(one, list):
            return len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], dict)
        return isinstance(one, dict) and any(isinstance(one.get(key), (list, dict)) for key in _ANNOTATIONS)

    for key, held in value.items() if isinstance(value, dict) else ():
        if isinstance(held, list) and any(map(is_row, held)) and all(one is None or is_row(one) for one in held):
            return f"take them out: jq -c '.{key}[]{' | values' * (None in held)}'"
    by_id = isinstance(value, dict) and value and all(map(is_row, value.values()))
    return "take them out: jq -c '.[]'" if by_id else None


def text_of(row: dict[str, Any], report: Report) -> str | None:
    """The "text" of the row, or "data" as older doccano calls it; None, and a report, if there is none to work on."""
    key = "data" if "text" not in row and isinstance(row.get("data"), str) else "text"
    if key not in row:
        strings = [quote(name) for name, value in row.items() if isinstance(value, str) and name != "id"]
        renamed = f'rename {" or ".join(strings)} to "text" if that is its sentence'
        remedy = rows_within(row) or (renamed if strings else "give it its sentence")
        report(f'{quote(row)} lacks "text"; {remedy}')
    elif not isinstance(text := row[key], str):
        report(f'"text" is {quote(text)}; make it a string')
    elif not text.strip():
        report(f"the text {quote(text)} is empty; delete the row")
    else:
        return text
    return None
