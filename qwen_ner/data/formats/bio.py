"""Tagged lines (CoNLL: a token and its tag a line, a blank line between sentences) to `Example`s and back.

In: files of tagged lines, of which scheme, separator and columns are found out. Out: `Example`s, a sentence at a time,
or one `DataError` with every faulty line; lines for examples. Knows nothing of JSON, tokens of models, or recipes.

What is read: the token in the first column and the tag in the last, separated by tabs or else by spaces; a token may be
the separator itself, as a space is in text of one character a line. LF or CRLF, with or without a byte order mark.
`-DOCSTART-` lines and comments (`# id …` above a sentence) part sentences and are told to `note`.
How tokens become a text is said in `tagging`. Text is written one character a line, spaces too, so that every offset
comes back.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ...entities import Example, LabelSet, NerError
from .errors import DataError, LineFault, Note, ignore, quote
from .rows import decoded, lines_of
from .schemes import EDGE, OUTSIDE, Scheme, Tag, parse_tag, scheme_of
from .tagging import OUT_OF_ORDER, are_words, example_of, known_tag, tags_for

DOCUMENT = b"-DOCSTART-"

SAMPLE = 10_000
"""Tagged lines by which separator, columns and joining are told; the scheme is told by all."""


@dataclass(frozen=True)
class Layout:
    """How a file of tagged lines is written. `words` says that its tokens are words and not characters."""

    scheme: Scheme
    separator: str = "\t"
    columns: int = 2
    words: bool = False

    def __str__(self) -> str:
        unit = "word" if self.words else "character"
        columns = f", {self.columns} columns" if self.columns > 2 else ""
        return f"{self.scheme.name}, one {unit} a line, separated by {_NAMES[self.separator]}s{columns}"

    def split(self, line: str) -> tuple[str, str] | str:
        """Token and tag of a line, or what is wrong with it."""
        if self.separator == "\t" or self.columns == 2:
            parts = line.rsplit(self.separator, self.columns - 1)
        else:
            parts = [part for part in line.split(" ") if part]
            if line.startswith(" "):
                parts.insert(0, " ")
        if len(parts) != self.columns:
            return (
                f"{quote(line)} has {len(parts)} of the {self.columns} columns that this file has, separated by "
                f"{_NAMES[self.separator]}s; give it its token and tag"
            )
        token = parts[0]
        if self.separator == " ":  # several spaces may part two columns, and the token may be a space
            token = token.rstrip(" ") or token[:1]
        return (token, parts[-1]) if token else f"{quote(line)} has no token; write it, a space as a space"


_NAMES = {"\t": "tab", " ": "space"}

LINE_BREAKS = "line breaks in texts, written as spaces"


def survey(path: str | Path) -> Layout:
    """How this file is written; reads it once, in flat memory. Raises `NerError` where it cannot be read."""
    sample = list(islice((raw for raw in _stripped(path) if raw and not raw.startswith((DOCUMENT, b"#"))), SAMPLE))
    tabs = 2 * sum(b"\t" in raw for raw in sample) >= len(sample)
    separator = "\t" if tabs else " "
    # A line that begins with a separator has it for its token, which would be counted as a column more.
    split = [raw.split(b"\t") if tabs else raw.split() for raw in sample if not raw.startswith((b" ", b"\t"))]
    columns = max(2, Counter(map(len, split)).most_common(1)[0][0]) if split else 2
    words = are_words([parts[0].decode(errors="replace") for parts in split])

    pairs: Counter[tuple[Tag, Tag]] = Counter()
    known: dict[bytes, Tag | None] = {}
    before, cut = EDGE, separator.encode()
    for raw in _stripped(path):
        if not raw or raw.startswith(DOCUMENT):
            tag: Tag | None = EDGE
        else:
            name = raw.rpartition(cut)[2]
            if name not in known:
                known[name] = parse_tag(name.decode(errors="replace"))
            tag = known[name]
        if tag is not None and (tag != EDGE or before != EDGE):
            pairs[before, tag] += 1
            before = tag
    if before != EDGE:
        pairs[before, EDGE] += 1
    return Layout(scheme_of(pairs), separator, columns, words)


def _stripped(path: str | Path) -> Iterator[bytes]:
    """The lines without byte order mark and what stands behind their last column; empty ones are blank."""
    for number, raw in enumerate(lines_of(path)):
        yield raw.rstrip() if number else raw.removeprefix(codecs.BOM_UTF8).rstrip()


@dataclass(slots=True)
class _Sentence:
    lines: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)


def read_tagged(
    path: str | Path,
    labels: LabelSet | None = None,
    *,
    layout: Layout | None = None,
    repair: bool = False,
    note: Note = ignore,
) -> Iterator[Example]:
    """The sentences of a file, one at a time, in its order; ids count them from 1, `source` names the first line.

    `labels=None` takes any label. Raises at the end: `DataError` with each faulty line (what has come until then counts
    only without one), `NerError` where there is no sentence. `repair` reads tags that are out of order as conlleval
    does and tells `note` of each.
    """
    layout = layout or survey(path)
    name, faults, sentences = Path(path).name, list[str](), 0

    def told(line: int, fault: str) -> None:
        faults.append(f"{name}:{line}: {fault}")

    def mended(line: int, fault: str) -> None:
        note(OUT_OF_ORDER, f"{name}:{line}: {fault}")

    for sentence in _sentences(path, layout, told, note):
        sentences += 1
        at = sentence.lines.__getitem__
        example = example_of(
            str(sentences),
            f"{name}:{at(0)}",
            sentence.tokens,
            sentence.tags,
            layout.scheme,
            layout.words,
            labels,
            lambda token, fault, at=at: told(at(token), fault),  # type: ignore[misc]
            (lambda token, fault, at=at: mended(at(token), fault)) if repair else None,  # type: ignore[misc]
        )
        if not faults:
            yield example
    if faults:
        raise DataError(str(path), faults, sentences)
    if not sentences:
        raise NerError(
            f"{path} has no tagged line; write a token, a tab and its tag a line, and a blank line between sentences"
        )


def _sentences(path: str | Path, layout: Layout, told: Callable[[int, str], None], note: Note) -> Iterator[_Sentence]:
    name, sentence = Path(path).name, _Sentence()
    allowed: dict[str, Tag | str] = {}
    split = layout.split
    if layout.columns > 2:
        note(f"the columns between the first and the last of {layout.columns}", name)
    for number, raw in enumerate(_stripped(path), start=1):
        mark = raw.startswith(DOCUMENT)
        if mark:
            note("document marks", f"{name}:{number}")
        if not raw or mark:
            if sentence.lines:
                yield sentence
                sentence = _Sentence()
            continue
        try:
            parts = split(decoded(raw))
        except LineFault as fault:
            parts = str(fault)
        if raw.startswith(b"#") and not sentence.lines and (isinstance(parts, str) or parse_tag(parts[1]) is None):
            note("comments", f"{name}:{number}")
            continue
        if isinstance(parts, str):
            told(number, parts)
            parts = "?", "O"
        token, tag = parts
        if tag not in allowed:
            allowed[tag] = known_tag(tag, layout.scheme)
        read = allowed[tag]
        if isinstance(read, str):
            told(number, read)
            read = OUTSIDE
        sentence.lines.append(number)
        sentence.tokens.append(token)
        sentence.tags.append(read)
    if sentence.lines:
        yield sentence


def tagged(example: Example, scheme: Scheme, lose: Note = ignore) -> str:
    """The lines of one example, a character each, with the blank line behind them.

    `lose` is told of what they cannot say: an entity inside or across a longer one, which is left out, and a line break
    in the text, which becomes a space. Raises as `tags_for` does.

    >>> from qwen_ner.entities import Entity
    >>> from qwen_ner.data.formats.schemes import SCHEMES
    >>> tagged(Example("0", "三星", (Entity("company", "三星", 0, 2),)), SCHEMES[4])
    '三\\tB-company\\n星\\tE-company\\n\\n'
    """
    tags = tags_for(example, scheme, lose)
    text = example.text
    if "\n" in text:
        lose(LINE_BREAKS, f"{example.source}: {quote(text)}")
        text = text.replace("\n", " ")
    return "".join([f"{character}\t{tag}\n" for character, tag in zip(text, tags, strict=True)]) + "\n"


def first_line_mark(text: str) -> str:
    """What must stand before a file that begins with this text: a reader takes its first U+FEFF for the file's mark."""
    return "\ufeff" if text.startswith("\ufeff") else ""


def looks_tagged(head: Iterable[bytes]) -> bool:
    """Whether most of these lines, the first of a file, end in a tag.

    >>> looks_tagged([b"-DOCSTART-", b"", "三\\tB-ORG".encode(), "星 I-ORG".encode()])
    True
    >>> looks_tagged([b"blood group O", b"and others"])
    False
    """
    tagged, lines = 0, 0
    for raw in head:
        line = raw.rstrip().decode(errors="replace")
        if line and not line.startswith(("-DOCSTART-", "#")):
            lines += 1
            tagged += any(found and parse_tag(tag) for _, found, tag in (line.rpartition("\t"), line.rpartition(" ")))
    return 2 * tagged > lines
