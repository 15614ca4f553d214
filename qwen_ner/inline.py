"""Between entities and a copy of the text in which they are marked: the target of recipes with `target: inline`.

In and out: those of `codec`. An answer in it takes more tokens than JSON (on CLUENER 32 a row against 13), and says
which of several places of a surface is meant. Of the ways to mark an entity, `[三星 company]` takes the fewest of
Qwen's tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import replace
from difflib import SequenceMatcher

from .codec import Codec, Decoded, Problem
from .columns import join_names
from .composed import composed, nfc
from .entities import Entity, Example, LabelSet, NerError, in_order
from .grounding import ground_written

INLINE_PROMPT = "你是命名实体识别助手。照抄文本，把其中的实体写成[实体 类别]，没有实体就原样照抄。"

MARKED = re.compile(r"\[((?:[^\[\]\\]|\\[\[\]\\])+) ([^\s\[\]\\]+)\]|\\([\[\]\\])|(.)", re.DOTALL)
"""A surface and its label, an escaped character, or another one. It reads any string."""

CUT = re.compile(r"\[(?:[^\[\]\\]|\\[\[\]\\])*\\?\Z|\\\Z")
"""A mark or an escape in which a string ends."""


class InlineCodec(Codec):
    r"""Writes the text with `[surface label]` for each entity; `[`, `]` and `\` of the text have a `\` before them.

    Of entities that overlap only one can be marked: the first, of those that begin together the longest (`unwritten`).

    A completion whose copy is not the text is `miscopied`: the longest runs that both have in the same order are laid
    over each other, and an entity in one of them has its place there. The others are looked for in the text by their
    surfaces, as in JSON. An answer that was cut off predicts what it has copied. Raises `NerError` for a label that
    cannot be told from the rest: one with white space, a bracket or a backslash.

    >>> from qwen_ner.entities import CLUENER
    >>> codec, text = InlineCodec(CLUENER), "三星在北京[图]"
    >>> codec.encode(Example("0", text, (Entity("company", "三星", 0, 2), Entity("address", "北京", 3, 5))))
    '[三星 company]在[北京 address]\\[图\\]'
    >>> made = codec.decode(text, "[三星 company]在在[北京 address]")
    >>> [(e.text, e.span) for e in made.entities], [problem.kind for problem in made.problems]
    ([('三星', (0, 2)), ('北京', (3, 5))], ['miscopied'])
    """

    target = "inline"
    default_prompt = INLINE_PROMPT
    located = True

    def __init__(self, labels: LabelSet, system_prompt: str | None = None) -> None:
        super().__init__(labels, system_prompt)
        if broken := [name for name in labels.names if re.search(r"[\s\[\]\\]", name)]:
            what = "the inline target cannot write a label with white space, a bracket or a backslash"
            raise NerError(what, value=join_names(broken, 20), place="labels", remedy="rename it, or use target: json")

    def encode(self, example: Example) -> str:
        self.check(example)
        text, marks = marked(example)
        pieces, at = list[str](), 0
        for label, start, end in marks:
            pieces += [escaped(text[at:start]), f"[{escaped(text[start:end])} {label}]"]
            at = end
        return "".join(pieces) + escaped(text[at:])

    def unwritten(self, example: Example) -> int:
        return len(example.entities) - len(marked(example)[1])

    def decode(
        self, text: str, completion: str, *, finished: bool = True, forced_surfaces: Set[tuple[str, str]] = frozenset()
    ) -> Decoded:
        problems = [] if finished else [Problem("truncated", completion)]
        copy, marks = parse(completion, finished=finished)
        whole = composed(text)
        blocks: Sequence[tuple[int, int, int]] = [(0, 0, len(copy))]
        if copy != whole.text and (finished or not whole.text.startswith(copy)):
            problems.append(Problem("miscopied", copy))
            blocks = aligned(copy, whole.text)
        entities: dict[Entity, None] = {}
        surfaces: dict[tuple[str, str], None] = {}
        lost: dict[tuple[str, str], None] = {}
        for label, surface, start, end in marks:
            shift = next((b - a for a, b, size in blocks if a <= start and end <= a + size), None)
            if label not in self.labels:
                problems.append(Problem("unknown_label", label, label))
                surfaces[label, surface] = None
            elif shift is None:
                lost[label, nfc(surface)] = None
            else:
                first, last = whole.place_of(start + shift, end + shift)
                entities[Entity(label, text[first:last], first, last)] = None
                surfaces[label, text[first:last]] = None
        if lost:
            written = [(label, surface) for label, surface, *_ in marks if label in self.labels]
            found = [e for e in ground_written(text, written) if (e.label, nfc(e.text)) in lost]
            absent = lost.keys() - {(e.label, nfc(e.text)) for e in found}
            problems += [
                Problem("not_in_text", surface, label) for label, surface in lost if (label, surface) in absent
            ]
            entities |= dict.fromkeys(found)
            surfaces |= dict.fromkeys([*((e.label, e.text) for e in found), *(pair for pair in lost if pair in absent)])
        return Decoded(in_order(entities), tuple(surfaces), tuple(problems))

    def scored(self, decoded: Decoded, written: Sequence[tuple[tuple[str, str], float]]) -> Decoded:
        """Each entity has the score of its own mark, or if the places of some marks are lost that of its pair."""
        known = [((label, nfc(surface)), score) for (label, surface), score in written if label in self.labels]
        if [pair for pair, _ in known] != [(e.label, nfc(e.text)) for e in decoded.entities]:
            return super().scored(decoded, written)
        both = zip(decoded.entities, known, strict=True)
        return replace(decoded, entities=tuple(replace(entity, score=score) for entity, (_, score) in both))

    def locate(self, completion: str, *, with_keys: bool = False) -> list[tuple[str, str, int, int]]:
        """(label, surface, start, end) of each mark, its brackets and label included.

        >>> InlineCodec(LabelSet.of(["address"])).locate("在[北京 address]")
        [('address', '北京', 1, 13)]
        """
        found = (match for match in MARKED.finditer(completion) if match[1])
        return [(match[2], unescaped(match[1]), *match.span()) for match in found]


CODECS: dict[str, type[Codec]] = {codec.target: codec for codec in (Codec, InlineCodec)}
"""What a recipe's `target` names."""


def escaped(text: str) -> str:
    return re.sub(r"[\[\]\\]", r"\\\g<0>", text)


def unescaped(written: str) -> str:
    return re.sub(r"\\([\[\]\\])", r"\1", written)


def flat(example: Example) -> list[Entity]:
    """The entities that can be marked: of those that overlap the first, and the longest of those that begin there."""
    kept: list[Entity] = []
    for entity in sorted(example.entities, key=lambda e: (e.start, -e.end)):
        if not kept or kept[-1].end <= entity.start:
            kept.append(entity)
    return kept


def marked(example: Example) -> tuple[str, list[tuple[str, int, int]]]:
    """The NFC of the text, and label, start and end in it of each mark. Of entities that share a composed character
    the first is marked."""
    whole = composed(example.text)
    marks, at = list[tuple[str, int, int]](), 0
    for entity in flat(example):
        start, end = whole.place_in(*entity.span)
        if start >= at:
            marks.append((entity.label, start, end))
            at = end
    return whole.text, marks


def aligned(copy: str, text: str) -> Sequence[tuple[int, int, int]]:
    """(start in the copy, start in the text, length) of the runs that both have in the same order: the longest, and the
    longest before and behind it, and so on. Of long strings, for which that can take minutes, the common beginning and
    end.

    >>> aligned("在在北京", "在北京")[0]
    Match(a=1, b=0, size=3)
    """
    if len(copy) * len(text) <= 500 * 500:
        return SequenceMatcher(None, copy, text, autojunk=False).get_matching_blocks()
    head = _in_common(copy, text)
    tail = _in_common(copy[head:][::-1], text[head:][::-1])
    return [(0, 0, head), (len(copy) - tail, len(text) - tail, tail)]


def _in_common(one: str, other: str) -> int:
    """How many characters both begin with."""
    both = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in both if a != b), min(len(one), len(other)))


def parse(completion: str, *, finished: bool = True) -> tuple[str, list[tuple[str, str, int, int]]]:
    """The text that `completion` copies, and label, surface, start and end in it of each mark. What breaks the rules
    is read as text; the mark in which one was cut off is left out."""
    copy, marks = "", list[tuple[str, str, int, int]]()
    if not finished:
        completion = completion.rstrip("\ufffd")  # a part of a character
    for match in MARKED.finditer(completion):
        if not finished and CUT.match(completion, match.start()):
            break
        if match[1]:
            surface = unescaped(match[1])
            marks.append((match[2], surface, len(copy), len(copy) + len(surface)))
        copy += surface if match[1] else match[3] or match[4]
    return copy, marks
