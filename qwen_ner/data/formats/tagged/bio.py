"""Tagged lines (CoNLL): one token and its tag per line, a blank line between sentences.

In: such lines; scheme, separator and columns are detected. Out: `Example`s, a sentence at a time, or one `DataError`
with every faulty line; lines for examples, in any scheme. Knows nothing of JSON, tokens of models, or recipes.

The token is the first column and the tag the last with tags, separated by tabs or else by spaces; a token may be the
separator itself, as a space is in text of one character a line. LF or CRLF, with or without a byte order mark.
`-DOCSTART-` lines and comments (`# id …` above a sentence) separate sentences and are noted. `tagging` says how tokens
become a text. Text is written one character a line, spaces too, so that every offset comes back.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from ....entities import Example, LabelSet
from ..errors import LINE_BREAKS, Faults, LineFault, Note, ignore, quote
from ..lines import decode_line, lines_of, write_lines
from ..mentions import without_scores
from ..rows import looks_like_object
from .schemes import OUTSIDE, SCHEMES, Scheme, parse_tag
from .tagging import Tagging, TagReader, tags_for

NAME = "bio"
VARIANTS: dict[str, Scheme] = {scheme.name.lower(): scheme for scheme in SCHEMES}
SUFFIXES = (".bio", ".conll", ".iob", *(f".{name}" for name in VARIANTS), ".tsv", ".txt")
DESCRIPTION = f"tagged lines ({', '.join(scheme.name for scheme in SCHEMES)})"

DOCUMENT = b"-DOCSTART-"

_SHOWS_NOTHING = re.compile("(?:\u3000|\xa0|\u200b|\ufeff)+".encode())

SAMPLE, SENTENCES = 10_000, 1_000
"""Tagged lines that tell separator and columns, and sentences that tell joining; all of them tell the scheme."""


def sniff(head: bytes, name: str) -> bool:
    """By the tags, or by a name that says so; .tsv and .txt may be anything."""
    if looks_like_object(head) or name.endswith((".json", ".jsonl")):
        return False
    return name.endswith(SUFFIXES[:-2]) or _looks_tagged(islice(head.split(b"\n"), 100))


def _looks_tagged(lines: Iterable[bytes]) -> bool:
    """Whether most of these lines end in a tag.

    >>> _looks_tagged([b"-DOCSTART-", b"", "三\\tB-ORG".encode(), "星 I-ORG".encode()])
    True
    >>> _looks_tagged([b"blood group O", b"and others"])
    False
    """
    texts = (raw.rstrip().decode(errors="replace") for raw in lines)
    kept = [line for line in texts if line and not line.startswith(("-DOCSTART-", "#"))]
    pairs = [(line.rpartition("\t"), line.rpartition(" ")) for line in kept]
    if 2 * sum(any(found and parse_tag(tag) for _, found, tag in pair) for pair in pairs) > len(kept):
        return True
    if 2 * sum(len(parts) > 1 and parse_tag(parts[0]) is not None for parts in map(str.split, kept)) > len(kept):
        return True  # the tag first
    columns = [line.split() for line in kept]
    if columns and len({*map(len, columns)}) == 1 and 2 * _tags_in(columns, _places(columns)[1]) > len(kept):
        return True  # other columns behind the tag
    # Bare labels are told by the characters beside them.
    bare = all(len(parts) == 2 and len(parts[0]) == 1 for parts in columns)
    return bare and any(parts[1] == "O" for parts in columns)


@dataclass(frozen=True)
class Layout:
    """How a file of tagged lines is written; `token` and `tags` are their columns, `prefix` begins every token.

    Several columns of tags are levels of nested entities.
    """

    tagging: Tagging
    separator: str
    columns: int
    token: int
    tags: tuple[int, ...]
    prefix: str = ""

    def __str__(self) -> str:
        columns = f", {self.columns} columns" if self.columns > 2 else ""
        columns += ", the tag first" if self.tags == (0,) else ", the token second" if self.token else ""
        columns += f", the tag in column {self.tags[-1] + 1}" if self.tags[-1] > 0 else ""
        return f"{self.tagging.scheme}, one {self.tagging.unit} a line, separated by {_NAMES[self.separator]}s{columns}"

    def split(self, line: str) -> tuple[str, ...]:
        """Token and tags of a line. Raises `LineFault`."""
        if "\r" in line[1:]:
            raise LineFault(f"{quote(line)} has a carriage return inside", remedy="end the lines with line feeds")
        if self.separator == "\t" or self.columns == 2:
            parts = line.rsplit(self.separator, self.columns - 1)
        else:
            parts = [part for part in line.split(" ") if part]
            if line.startswith(" "):
                parts.insert(0, " ")
        token = parts[self.token].removeprefix(self.prefix) if len(parts) == self.columns else ""
        if self.separator == " ":  # several spaces may separate two columns, and the token may be a space
            token = token.rstrip(" ") or token[:1]
            if any((parse_tag(part) or OUTSIDE) != OUTSIDE for part in token.split()[1:]):
                raise LineFault(f"{quote(line)} has a tag amid its token", remedy="separate token and tag by a tab")
        if not token:
            columns = f"{self.columns} columns separated by {_NAMES[self.separator]}s, as this file has"
            raise LineFault(f"{quote(line)} is not {columns}", remedy="give it its token (a space as a space) and tag")
        return token, *(parts[at] for at in self.tags)


_NAMES = {"\t": "tab", " ": "space"}


def survey(path: str | Path) -> Layout:
    """How this file is written; reads it once, in flat memory. Raises `NerError` if it cannot be read."""
    sample = list(islice((raw for raw in _strip_lines(path) if raw and not raw.startswith((DOCUMENT, b"#"))), SAMPLE))
    tabs = 2 * sum(b"\t" in raw for raw in sample) >= len(sample)
    separator = "\t" if tabs else " "
    # A line that begins with a separator has it as its token, which would count as one more column.
    split = [raw.split(b"\t") if tabs else raw.split() for raw in sample if not raw.startswith((b" ", b"\t"))]
    columns = max(2, Counter(map(len, split)).most_common(1)[0][0]) if split else 2
    whole = [[part.decode(errors="replace") for part in parts] for parts in split if len(parts) == columns]
    token, tag = _places(whole)
    levels = [at for at in range(token + 1, tag % columns) if _is_level(whole, at, tag)]
    begun = re.match(r"[a-z]{2,3}:", whole[0][token]) if len(whole) > 1 else None
    prefix = begun[0] if begun and all(parts[token].startswith(begun[0]) for parts in whole) else ""

    def columns_of(at: int) -> Iterator[list[str]]:
        """A column of each sentence, where it is there."""
        for lines in _sentences(path, ignore):
            parts = (raw.split(separator.encode()) for _, raw in lines)
            yield [part[at].decode(errors="replace").removeprefix(prefix) for part in parts if at < len(part)]

    tags = (*levels, tag)
    tagging = Tagging.of(islice(columns_of(token), SENTENCES), chain.from_iterable(map(columns_of, tags)))
    return Layout(tagging, separator, columns, token, tags, prefix)


def _is_level(whole: list[list[str]], at: int, tag: int = -1) -> bool:
    """Whether a column has tags of the same labels as that at `tag`; chunks (B-NP) beside entities have others.

    >>> _is_level([["Uni", "B-ORG", "O"], ["Bonn", "I-ORG", "B-LOC"], ["Rio", "B-LOC", "O"]], 1)
    True
    >>> _is_level([["EU", "B-NP", "B-ORG"], ["said", "B-VP", "O"]], 1), _is_level([["it", "B-NP", "O"]], 1)
    (False, False)
    """
    here, last = ({parse_tag(parts[column]) for parts in whole} for column in (at, tag))
    labels, others = ({tag[1] for tag in tags if tag} - {""} for tags in (here, last))
    return None not in here and 2 * len(labels & others) >= min(len(labels), len(others)) > 0


def _places(whole: list[list[str]]) -> tuple[int, int]:
    """The columns of token and tag: the first, or second where the first counts tokens or sentences, and the last with
    tags.

    The tag may be the first and the token the last. Bare labels and tags in another spelling are told by their O.

    >>> _places([["三", "B-ORG"], ["星", "I-ORG"]]), _places([["B-ORG", "三"], ["I-ORG", "星"]])
    ((0, -1), (-1, 0))
    >>> _places([["1", "三", "_", "B-ORG"], ["2", "星", "_", "I-ORG"], ["1", "好", "_", "O"]])
    (1, -1)
    >>> _places([["三", "B-ORG", "0.98"], ["星", "I-ORG", "0.97"]])
    (0, 1)
    """
    first, last = _tags_in(whole, 0), _tags_in(whole, -1)
    if 2 * first > len(whole) > 2 * last:
        return -1, 0
    # Tokens are counted anew in each sentence, whose ends are not known here; the number of a sentence stays.
    counts = [int(parts[0]) if parts[0].isdecimal() else -1 for parts in whole]
    steps = all(one >= 0 and one in (0, 1, at, at + 1) for at, one in zip([0, *counts], counts, strict=False))
    token = int(len(counts) > 1 and len(whole[0]) > 2 and steps and max(counts) > 1)
    # Behind the tags there may be scores or parts of speech; a column of bare labels has some O.
    before = range(len(whole[0]) - 2, token, -1) if 10 * last <= len(whole) > 0 else ()
    return token, next((at for at in before if 2 * _tags_in(whole, at) > len(whole)), -1)


def _tags_in(whole: list[list[str]], at: int) -> int:
    """How many cells of a column are tags."""
    return sum(parse_tag(parts[at]) is not None for parts in whole)


def _strip_lines(path: str | Path) -> Iterator[bytes]:
    """The lines without byte order mark and trailing whitespace; empty ones are blank, as are those that show nothing.

    Where files were put one after the other there may be a mark before any sentence. A token of its own is none.
    """
    before = b""
    for number, raw in enumerate(map(bytes.rstrip, lines_of(path))):
        if number == 0 or (not before and raw[len(codecs.BOM_UTF8) :][:1] not in (b"\t", b" ")):
            raw = raw.removeprefix(codecs.BOM_UTF8)
        before = b"" if _SHOWS_NOTHING.fullmatch(raw) else raw
        yield before


def _sentences(path: str | Path, note: Note) -> Iterator[Iterator[tuple[int, bytes]]]:
    """The numbered lines of each sentence; blank lines and document marks, which are noted, separate them."""
    lines = enumerate(_strip_lines(path), start=1)
    for is_sentence, group in groupby(lines, lambda line: bool(line[1]) and not line[1].startswith(DOCUMENT)):
        if is_sentence:
            yield group
            continue
        for number, raw in group:
            if raw:
                note("document marks", f"{Path(path).name}:{number}")


def read(
    path: str | Path,
    labels: LabelSet | None = None,
    *,
    layout: Layout | None = None,
    repair: bool = False,
    note: Note = ignore,
    warn: Note = ignore,
    **_: Any,
) -> Iterator[Example]:
    """The sentences, one at a time; ids count them from 1, `source` names the first line.

    Raises `DataError` with each faulty line, or `NerError` if there is no sentence, at the end. `repair` reads tags
    that are out of order as conlleval does and warns of each.
    """
    layout = layout or survey(path)
    name, faults = Path(path).name, Faults(str(path))
    reader = TagReader(layout.tagging, labels, faults, repair, warn)
    if beside := {*range(layout.columns)} - {at % layout.columns for at in (layout.token, *layout.tags)}:
        which = ", ".join(str(at + 1) for at in sorted(beside))
        note(f"columns that are neither token nor tag: {which} of {layout.columns}", name)
    if len(layout.tags) > 1:
        warn(f"{len(layout.tags)} columns of tags, read as levels of nested entities", name)
    if layout.prefix:
        warn(f"tokens that all begin with {layout.prefix}, read without it", name)
    for lines in _sentences(path, note):
        tagged: list[tuple[int, str, tuple[str, ...]]] = []
        for number, raw in lines:
            fault = None
            try:
                token, *tags = layout.split(decode_line(raw))
            except LineFault as error:  # read as an unknown token, so that reading goes on
                token, tags, fault = "?", ["O"] * len(layout.tags), error
            if raw.startswith(b"#") and not tagged and (fault or None in map(parse_tag, tags)):
                note("comments", f"{name}:{number}")
                continue
            if fault:
                faults.found.append(f"{name}:{number}: {fault}")
            tagged.append((number, token, tuple(tags)))
        if tagged:
            faults.rows += 1
            numbers, tokens, names = zip(*tagged, strict=True)
            places = partial(_place, name, numbers)
            if example := reader.example(str(faults.rows), places(0), tokens, zip(*names, strict=True), places):
                yield example
    faults.finish("no tagged lines", "write one token, a tab and its tag per line, and a blank line between sentences")


def _place(name: str, numbers: Sequence[int], token: int) -> str:
    return f"{name}:{numbers[token]}"


def write(path: Path, examples: Iterable[Example], lose: Note = ignore, variant: str = "bio2") -> None:
    """`lose` gets what tags cannot hold, as for `tag_lines`, and ids that do not merely count rows."""

    def lines() -> Iterator[str]:
        for number, example in enumerate(without_scores(examples, lose)):
            if number == 0:
                yield first_line_mark(example.text)
            # Reading gives each sentence such a number again.
            if example.id not in (str(number), str(number + 1), example.source.rpartition(":")[2]):
                lose("ids", example.source)
            yield tag_lines(example, VARIANTS[variant], lose)

    write_lines(path, lines())


def tag_lines(example: Example, scheme: Scheme, lose: Note = ignore) -> str:
    """The lines of one example, one character each, and the blank line after them.

    `lose` gets what they cannot hold: an entity inside or across a longer one, which is left out, and a line break in
    the text, which becomes a space. Raises as `tags_for` does.

    >>> from qwen_ner.entities import Entity
    >>> tag_lines(Example("0", "三星", (Entity("company", "三星", 0, 2),)), VARIANTS["bmes"])
    '三\\tB-company\\n星\\tE-company\\n\\n'
    """
    tags = tags_for(example, scheme, lose)
    text = example.text
    if "\n" in text:
        lose(LINE_BREAKS, f"{example.source}: {quote(text)}")
        text = text.replace("\n", " ")
    return "".join([f"{character}\t{tag}\n" for character, tag in zip(text, tags, strict=True)]) + "\n"


def first_line_mark(text: str) -> str:
    """A byte order mark for a text that begins with U+FEFF: a reader removes the first one of a file."""
    return "\ufeff" if text.startswith("\ufeff") else ""
