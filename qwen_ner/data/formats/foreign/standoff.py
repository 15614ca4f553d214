"""Annotations in a file of their own, beside the text: brat's `.ann`, and a file of tags beside one of tokens.

In: one of the two files, or for brat a folder of them.

    a.txt   三星在北京            source.txt   三 星 在 北 京
    a.ann   T1\tcompany 0 2\t三星   target.txt   B-company I-company O B-address I-address

Out: `Example`s, one for each line of text that is not blank.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....entities import Entity, Example, LabelSet, NerError
from ..errors import Faults, LineFault, Note, ignore, quote
from ..lines import decode_line, lines_of, number_lines
from ..mentions import EntityReader, distinct
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

_MENTION = re.compile(r"T\d+\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)")


def claims(path: Path) -> bool:
    """Whether this is one of two files that belong together, or a folder of such."""
    if path.is_dir():
        return any(path.glob("*.ann"))
    return (
        _tags_of(path) is not None
        or (path.suffix == ".txt" and path.with_suffix(".ann").is_file())
        or path.suffix == ".ann"
    )


def sniff(head: bytes, name: str) -> bool:
    return False  # `claims` tells


def _tags_of(path: Path) -> tuple[Path, Path] | None:
    """The files of tokens and of tags, of which `path` is one."""
    for tokens, tags in TAGS_BESIDE.items():
        pair = path.with_name(f"{tokens}{path.suffix}"), path.with_name(f"{tags}{path.suffix}")
        if path in pair and all(one.is_file() for one in pair):
            return pair
    pair = path.with_suffix(".in"), path.with_suffix(".out")
    return pair if path in pair and all(one.is_file() for one in pair) else None


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
    if pair := None if path.is_dir() else _tags_of(path):
        yield from _read_tags(*pair, labels, note if repair else None, warn)
        return
    faults = Faults(str(path))
    for annotation in sorted(path.glob("*.ann")) if path.is_dir() else [path.with_suffix(".ann")]:
        yield from _read_brat(annotation, labels, faults, note, warn)
    faults.finish("no text", "write the text into .txt files beside the .ann files")


def _read_brat(path: Path, labels: LabelSet | None, faults: Faults, note: Note, warn: Note) -> Iterator[Example]:
    document = path.with_suffix(".txt")
    if not document.is_file():
        raise NerError("no text beside it", place=path, remedy=f"put {document.name} there")
    text = "".join(raw.decode(errors="replace") for raw in lines_of(document)).removeprefix("\ufeff")
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found: list[list[Entity]] = [[] for _ in lines]
    report = faults.row(path.name)
    for number, raw in number_lines(lines_of(path)):
        place = f"{path.name}:{number}"
        try:
            line = decode_line(raw)
        except LineFault as fault:
            report(str(fault))
            continue
        if not line.startswith("T"):
            note("relations, events, attributes and notes", place)
            continue
        if not (parsed := _MENTION.fullmatch(line)):
            remedy = "write T1, a tab, label, start and end, a tab, the surface"
            report(f"line {number}: {quote(line)} cannot be read; {remedy}")
            continue
        label, spans, surface = parsed.groups()
        pieces = [[int(at) for at in span.split()] for span in spans.split(";")]
        if len(pieces) > 1:
            warn("entities in several pieces, read from the first to the last", place)
        start, end = pieces[0][0], pieces[-1][1]
        row = bisect_right(starts, start) - 1
        if row >= len(lines) or end > starts[row + 1]:
            where = f"line {number}: {quote(surface)} [{start}, {end})"
            report(f"{where} goes beyond its line of the text; mark it within one")
            continue
        reader = EntityReader(lines[row].rstrip("\r\n"), labels, report)
        shown = (surface,) if len(pieces) == 1 else ()
        found[row] += reader.at(label, start - starts[row], end - starts[row], shown)
    for number, (line, entities) in enumerate(zip(lines, found, strict=True), start=1):
        place = f"{document.name}:{number}"
        kept = distinct(entities, report)
        if line.strip() and not faults.found:
            yield Example(f"{path.stem}:{number}", line.rstrip("\r\n"), kept, place)


def _read_tags(tokens: Path, tags: Path, labels: LabelSet | None, mend: Note | None, warn: Note) -> Iterator[Example]:
    words, named = (
        [(number, decode_line(raw).split()) for number, raw in number_lines(lines_of(path))] for path in (tokens, tags)
    )
    if len(words) != len(named):
        what = f"{tokens.name} has {len(words):,} lines, {tags.name} {len(named):,}"
        raise NerError(what, place=tokens, remedy="write a line of tags for each line of tokens")
    pairs = zip(words, named, strict=True)
    sentences = [(f"{tokens.name}:{number}", line, names) for (number, line), (_, names) in pairs]
    yield from read_sentences(sentences, str(tokens), labels, mend, warn)
