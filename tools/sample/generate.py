"""Write the sample: `python tools/sample/generate.py OUT_DIR` makes train.jsonl, dev.jsonl and test.jsonl.

In: a seed; the templates and words beside this file. Out: rows of text and entities, byte for byte the same for the
same seed on every Python, since nothing but `Random.random` is drawn from. Every row holds what `codec.ground` would
find again: each occurrence of a labelled surface is labelled, and none stands inside another. Knows nothing of
models.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

from templates import GENRES, OPENERS, TAILS
from words import FILLERS, PARTS, SLOTS

from qwen_ner.data.analysis.duplicates import bare
from qwen_ner.entities import Entity, Example
from qwen_ner.grounding import ground

SEED = 2025
SIZES = {"train": 2000, "dev": 300, "test": 300}
GENRE_PERCENT = {"review": 17, "complaint": 9, "chat": 15, "service": 7, "search": 14, "news": 27, "empty": 11}
UNSEEN_SHARE = 0.41
"""Of the slots of dev and test that can be composed, those filled with a surface that train is never given."""
OPENER_SHARE, TAIL_SHARE, HALF_WIDTH_SHARE = 0.25, 0.4, 0.125

_KEY = re.compile(r"\{([a-z_]+)(\d?)\}")
_CHOICE = re.compile(r"<([^<>]*)>")
_HALF_WIDTH = str.maketrans("，？！：（）", ",?!:()")
# Words that are an entity wherever they stand: a row with one of them unlabelled would contradict the others.
_ALWAYS = sorted(
    {shape for _, shapes in SLOTS.values() for shape in shapes if "{" not in shape}
    | {word for part in ("city", "province", "country", "brand") for word in PARTS[part]}
)


def rows(seed: int = SEED) -> dict[str, list[Example]]:
    """The three splits. No text occurs twice, those of dev and test not even typed otherwise; a third of their
    (label, surface) pairs is not in train.

    >>> {split: len(examples) for split, examples in rows().items()}
    {'train': 2000, 'dev': 300, 'test': 300}
    """
    writer = _Writer(Random(seed))
    return {split: writer.split(split, size) for split, size in SIZES.items()}


def line(example: Example) -> str:
    """One row of the files, without the line break.

    >>> line(Example("0", "三星在北京", (Entity("company", "三星", 0, 2),)))
    '{"text":"三星在北京","entities":[{"label":"company","start":0,"end":2}]}'
    """
    entities = [{"label": e.label, "start": e.start, "end": e.end} for e in example.entities]
    return json.dumps({"text": example.text, "entities": entities}, ensure_ascii=False, separators=(",", ":"))


def write(folder: Path, seed: int = SEED) -> None:
    """Write the three files into `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in rows(seed).items():
        text = "".join(f"{line(example)}\n" for example in examples)
        (folder / f"{split}.jsonl").write_bytes(text.encode("utf-8"))


def held_out(surface: str) -> str:
    """The one split that a composed `surface` may be new in; train holds two thirds of what the shapes can make.

    >>> held_out("云禾"), held_out("星朵")
    ('train', 'dev')
    """
    return ("dev", "test", "train", "train", "train", "train")[zlib.crc32(surface.encode("utf-8")) % 6]


class _Writer:
    """Draws the rows of one split after another; remembers all texts, and what train's slots were filled with."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.texts: set[str] = set()
        self.bare: set[str] = set()
        self.decks: dict[str, list[str]] = {}
        self.train_surfaces: dict[str, list[str]] = {}
        self.train_characters: set[str] = set()

    def split(self, split: str, size: int) -> list[Example]:
        examples: list[Example] = []
        while len(examples) < size:
            template = self._template()
            surfaces = self._surfaces(template, split)
            text = self._text(template, surfaces)
            pairs = [(SLOTS[_slot(key)][0], surface) for key, surface in surfaces.items()]
            entities = ground(text, pairs)
            if text in self.texts or not _consistent(template, text, pairs, entities):
                continue
            if split == "train":
                self.train_characters.update(text)
                for key, surface in surfaces.items():
                    self.train_surfaces.setdefault(_slot(key), []).append(surface)
            elif not self.train_characters.issuperset(text) or bare(text) in self.bare:
                continue
            self.texts.add(text)
            self.bare.add(bare(text))
            examples.append(Example(f"{split}-{len(examples)}", text, entities))
        return examples

    def _pick(self, items: Sequence[str]) -> str:
        return items[int(self.random.random() * len(items))]

    def _deal(self, deck: str, cards: Sequence[str]) -> str:
        """One of `cards`, no card again before all the others, so that small splits hold like shares of labels."""
        left = self.decks.get(deck) or list(cards)
        card = left.pop(int(self.random.random() * len(left)))
        self.decks[deck] = left
        return card

    def _template(self) -> str:
        """A template with its wording chosen; some with a clause before or behind it, some in half-width marks."""
        genre = self._deal("", [genre for genre, percent in GENRE_PERCENT.items() for _ in range(percent)])
        template = self._deal(genre, GENRES[genre])
        if genre in OPENERS and self.random.random() < OPENER_SHARE:
            template = self._pick(OPENERS[genre]) + template
        if self.random.random() < TAIL_SHARE:
            template += self._pick(TAILS[genre])
        template = _CHOICE.sub(lambda match: self._pick(match[1].split("|")), template)
        return template.translate(_HALF_WIDTH) if self.random.random() < HALF_WIDTH_SHARE else template

    def _surfaces(self, template: str, split: str) -> dict[str, str]:
        """A surface for each slot of the template, by its key: composed, or outside train often one that train has."""
        surfaces: dict[str, str] = {}
        for slot, digit in _KEY.findall(template):
            key = f"{slot}{digit}"
            if slot in FILLERS or key in surfaces:
                continue
            shapes = SLOTS[slot][1]
            if split == "train":
                surfaces[key] = self._compose(shapes, split)
            elif self.random.random() < UNSEEN_SHARE and any(shape.count("{") > 1 for shape in shapes):
                surfaces[key] = self._compose([shape for shape in shapes if shape.count("{") > 1], split)
            else:
                surfaces[key] = self._pick(self.train_surfaces[slot])
        return surfaces

    def _compose(self, shapes: Sequence[str], split: str) -> str:
        while True:
            shape = self._pick(shapes)
            surface = _KEY.sub(lambda match: self._pick(PARTS[match[1]]), shape)
            # A shape of one part is a list, too short to hold something out of it.
            if shape.count("{") < 2 or held_out(surface) == split:
                return surface

    def _text(self, template: str, surfaces: dict[str, str]) -> str:
        values = dict(surfaces)

        def value(match: re.Match[str]) -> str:
            key = match[1] + match[2]
            if key not in values:
                values[key] = self._pick(FILLERS[match[1]])
            return values[key]

        return _KEY.sub(value, template)


def _slot(key: str) -> str:
    return key.rstrip("0123456789")


def _consistent(template: str, text: str, pairs: list[tuple[str, str]], entities: tuple[Entity, ...]) -> bool:
    """Whether the labels are those of the template, no surface stands in another, and no known entity is unlabelled."""
    slots = sum(slot in SLOTS for slot, _ in _KEY.findall(template))
    surfaces = [surface for _, surface in pairs]
    nested = any(one in other for i, one in enumerate(surfaces) for j, other in enumerate(surfaces) if i != j)
    outside = list(text)
    for entity in entities:
        outside[entity.start : entity.end] = "\n" * len(entity.text)
    rest = "".join(outside)
    return not nested and slots == len(entities) and not any(word in rest for word in _ALWAYS)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/sample/generate.py OUT_DIR")
    write(Path(sys.argv[1]))
