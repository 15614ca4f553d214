"""Annotations in a file of their own, beside the text: brat's `.ann`, and a file of tags beside one of tokens.

In: one of the two files, or for brat a folder of them.

    a.txt   三星在北京            source.txt   三 星 在 北 京
    a.ann   T1\tcompany 0 2\t三星   target.txt   B-company I-company O B-address I-address

Out: `Example`s, one for each line of text that is not blank; lines that an entity joins are one. The lines of a
document are a group, unless there are fewer than `DOCUMENTS`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from ....entities import Entity, Example, LabelSet, NerError
from ..errors import DOCUMENTS, Faults, Note, Report, ignore, quote
from ..lines import decode_line, lines_of, number_lines, text_lines
from ..mentions import TWICE, EntityReader
from ..offsets import Survey, same_surface
from ..rows import note_at
from ..tagged.schemes import parse_tag
from ..tagged.tagging import read_sentences

NAME = "standoff"
SUFFIXES = (".ann",)
DESCRIPTION = "annotations beside the text (brat's .ann, a file of tags beside one of tokens)"

TAGS_BESIDE = {
    "source": "target",
    "sentences": "tags",
    "sentence": "tag",
    "seq": "tags",
    "text": "tags",
    "tokens": "labels",
}
"""What the file of tags is called beside that of tokens, without its ending; also x.in beside x.out."""

TAGS_WORDS = ("label", "labels", "tag", "tags", "tgt", "target")
TAGS_ENDING = re.compile(f"[-_.]({'|'.join(TAGS_WORDS)})$")
"""What is put behind the name of a file for the name of its tags: dev-label.txt."""

NO_TAGS = (".csv", ".xlsx", ".json", ".jsonl", ".parquet", ".arrow")
"""Endings of files that are read as something else, even beside one of tokens."""

HEAD = 100
"""Lines among which tags are looked for."""

MISTYPED = "surfaces of which some characters are not those of the text, read by their offsets"

BEGINS_NONE = "lines that begin no annotation, taken for a part of the note before them"
REMEDY = "write T1, a tab, label, start and end, a tab, the surface"

_RECORD = re.compile(r"[A-Z#*]\d*\t")
_MENTION = re.compile(r"T\d+\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)", re.DOTALL)
_LIKE_ENTITY = re.compile(r"[Tt]\d+\s|.*\b\d+\s+\d+\s")


def claims(path: Path) -> bool:
    """Whether this is one of two files that belong together, or a folder of such."""
    if path.is_dir():
        return any(path.glob("*.ann"))
    return (
        pair_of(path) is not None
        or (path.suffix == ".txt" and path.with_suffix(".ann").is_file())
        or path.suffix == ".ann"
    )


def pair_of(path: Path) -> tuple[Path, Path] | None:
    """The files of tokens and of tags, of which `path` is one."""
    named = TAGS_BESIDE.items()
    pairs = [tuple(path.with_name(f"{name}{path.suffix}") for name in pair) for pair in named]
    stem = TAGS_ENDING.sub("", path.stem)
    beside = (path.with_name(f"{stem}{joint}{word}{path.suffix}") for joint in "-_." for word in TAGS_WORDS)
    pairs += [(path.with_name(f"{stem}{path.suffix}"), tags) for tags in beside]
    pairs.append((path.with_suffix(".in"), path.with_suffix(".out")))
    found = (pair for pair in pairs if path in pair and all(one.is_file() for one in pair))
    return next(((tokens, tags) for tokens, tags in found if _holds_tags(tags)), None)


def _holds_tags(path: Path) -> bool:
    """Whether tags are among the first words of a file: a table or JSON may be called a_labels too."""
    lines = (raw.decode(errors="replace").split() for raw in islice(lines_of(path), HEAD))
    return path.suffix.lower() not in NO_TAGS and any(parse_tag(word) for line in lines for word in line)


def read(
    path: str | Path,
    labels: LabelSet | None = None,
    *,
    repair: bool = False,
    note: Note = ignore,
    warn: Note = ignore,
    **_: Any,
) -> Iterator[Example]:
    """Raises `DataError` with each fault, or `NerError` if there is no text, at the end."""
    path = Path(path).expanduser()
    if pair := None if path.is_dir() else pair_of(path):
        yield from _read_tags(*pair, labels, repair, warn)
        return
    faults = Faults(str(path))
    documents = sorted(path.glob("*.ann")) if path.is_dir() else [path.with_suffix(".ann")]
    for text in sorted(path.glob("*.txt")) if path.is_dir() else ():
        if text.with_suffix(".ann") not in documents:
            warn("texts without an .ann file beside them, left out", text.name)
    for document in documents:
        group = document.stem if len(documents) >= DOCUMENTS else ""
        yield from _read_brat(document, labels, faults, repair, note, warn, group)
    faults.finish("no text", "write the text into .txt files beside the .ann files")


def _read_brat(
    path: Path, labels: LabelSet | None, faults: Faults, repair: bool, note: Note, warn: Note, group: str
) -> Iterator[Example]:
    document = path.with_suffix(".txt")
    if not document.is_file():
        raise NerError("no text beside it", place=path, remedy=f"put {document.name} there")
    text = _text_of(document, faults)
    entities = _entities(path, text, labels, faults, repair, note, warn)
    # Not splitlines, which also splits at a U+2028 inside a text.
    starts = sorted({0, len(text), *(found.end() for found in re.finditer(r"\r\n?|\n", text))})
    rows = list(starts)
    for entity in entities:  # a line begins no row inside of an entity
        del rows[bisect_right(rows, entity.start) : bisect_left(rows, entity.end)]
    found = defaultdict[int, list[Entity]](list)
    for entity in entities:
        at = rows[bisect_right(rows, entity.start) - 1]
        found[at].append(replace(entity, start=entity.start - at, end=entity.end - at))
    for at, end in pairwise(rows):
        number, line = bisect_right(starts, at), text[at:end].rstrip("\r\n")
        place = f"{document.name}:{number}"
        if re.search(r"[\r\n]", line):
            warn("lines joined to one text, as an entity goes beyond the end of one", place)
        if line.strip() and not faults.found:
            faults.rows += 1
            yield Example(f"{path.stem}:{number}", line, tuple(found[at]), place, group)


def _text_of(document: Path, faults: Faults) -> str:
    """The text, whose line ends count as they are written."""
    lines = []
    for number, raw in enumerate(lines_of(document), start=1):
        with faults.reading(f"{document.name}:{number}", rows=0):
            lines.append(decode_line(raw))
    return "".join(lines).removeprefix("\ufeff")


Mention = tuple[str, Report, str, list[tuple[int, int]], str]
"""Place, what takes its faults, label, (start, end) of each piece, surface."""


def _mentions(path: Path, faults: Faults, note: Note, warn: Note) -> Iterator[Mention]:
    for number, line in _records(path, faults, warn):
        place = f"{path.name}:{number}"
        if _RECORD.match(line) and not line.startswith("T"):
            note("relations, events, attributes and notes", place)
        elif parsed := _MENTION.fullmatch(line):
            yield place, faults.row(place), parsed[1], _pieces(parsed[2]), parsed[3]
        else:
            faults.row(place)(f"{quote(line)} cannot be read; {REMEDY}")


def _pieces(spans: str) -> list[tuple[int, int]]:
    return [(int(start), int(end)) for start, end in (span.split() for span in spans.split(";"))]


def _entities(
    path: Path, text: str, labels: LabelSet | None, faults: Faults, repair: bool, note: Note, warn: Note
) -> list[Entity]:
    """The entities of an annotated text, each once. None ends in a line break, which its row would lack."""
    found: dict[tuple[str, int, int], Entity] = {}
    mentions, survey = list(_mentions(path, faults, note, warn)), Survey()
    for place, _, _, pieces, surface in mentions:
        survey.see(place, text, pieces[0][0], pieces[-1][1], (surface,))
    unit = survey.unit()
    for place, report, label, pieces, surface in mentions:
        ats = [unit.span(text, *piece) or piece for piece in pieces]
        whole = not any(text[end:start].strip() for (_, end), (start, _) in pairwise(ats))  # brat divides at lines
        if not whole:
            warn("entities in several pieces, read from the first to the last", place)
        start, end = pieces[0][0], pieces[-1][1]
        held = text[ats[0][0] : ats[-1][1]]
        if held.rstrip("\r\n") != held:
            report(f"{label} {quote(surface)} [{start}, {end}) ends in a line break; leave that out")
            continue
        reader = EntityReader(text, labels, report, unit=unit, warn=partial(note_at, place, warn))
        if whole and _is_mistyped(surface, held):
            mistyped = f"{label} {quote(surface)} [{start}, {end}) is {quote(held)} in the text"
            if not repair:
                report(f"{mistyped}; correct it, or read it with --repair")
                continue
            warn(MISTYPED, f"{place}: {mistyped}")
            whole = False
        for entity in reader.at(label, start, end, (surface,) if whole else ()):
            if found.setdefault((label, start, end), entity) is not entity:
                warn(TWICE, place)
    return list(found.values())


def _is_mistyped(surface: str, found: str) -> bool:
    """Whether a surface is that of the text but for some characters, as where a ・ became a 、 after the annotation."""
    same = sum(one == other for one, other in zip(surface, found, strict=False))
    return len(surface) == len(found) and 2 * same > len(found) and not same_surface(surface, found)


def _records(path: Path, faults: Faults, warn: Note) -> list[tuple[int, str]]:
    """The annotations, with the numbers of their lines."""
    records: list[tuple[int, str]] = []
    for number, raw in number_lines(lines_of(path)):
        place = f"{path.name}:{number}"
        with faults.reading(place, rows=0):
            line = decode_line(raw)
            if records and _goes_on(records[-1][1], line, partial(warn, BEGINS_NONE, place)):
                first, before = records.pop()
                number, line = first, f"{before}\n{line}"
            records.append((number, line))
    return records


def _goes_on(before: str, line: str, warn: Callable[[], None]) -> bool:
    """Whether a line goes on with the annotation before it: with a surface of which some is missing, as it has a line
    break, or with a note, unless it may be an entity."""
    if _RECORD.match(line) or not _RECORD.match(before):
        return False
    if mention := _MENTION.fullmatch(before):
        pieces = _pieces(mention[2])
        return len(mention[3]) < pieces[-1][1] - pieces[0][0]
    if _LIKE_ENTITY.match(line):
        return False
    warn()
    return True


def _read_tags(tokens: Path, tags: Path, labels: LabelSet | None, repair: bool, warn: Note) -> Iterator[Example]:
    words, named = ([(number, line.split()) for number, line in text_lines(path)] for path in (tokens, tags))
    if len(words) != len(named):
        what = f"{tokens.name} has {len(words):,} lines, {tags.name} {len(named):,}"
        raise NerError(what, place=tokens, remedy="write a line of tags for each line of tokens")
    pairs = zip(words, named, strict=True)
    sentences = [(f"{tokens.name}:{number}", line, names) for (number, line), (_, names) in pairs]
    yield from read_sentences(sentences, str(tokens), labels, repair, warn)
