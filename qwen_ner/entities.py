"""The nouns of the task: an entity, a sentence with its entities, a set of labels.

In: plain values. Out: frozen dataclasses that check them. Knows nothing of JSON, files, tokens or torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from .columns import printable
from .composed import nfc


class NerError(ValueError):
    """A fault in something the user gave: a file, a recipe, a model folder.

    `what` says what is wrong, `value` is what was found, `place` is where, `remedy` says what to do about it. The
    message is built from these fields; the command line prints it without a traceback and exits with 1.

    >>> str(NerError("the port is out of range (0–65535)", value=70000, place="--port", remedy="choose another"))
    '--port: the port is out of range (0–65535), got 70000; choose another'
    """

    def __init__(self, what: str, *, value: Any = None, place: Any = None, remedy: str | None = None) -> None:
        self.what, self.value, self.place, self.remedy = what, value, place, remedy
        before = f"{place}: " if place is not None else ""
        found = f", got {value!r}" if value is not None else ""
        super().__init__(printable(f"{before}{what}{found}{f'; {remedy}' if remedy else ''}"))

    def __reduce__(self) -> Any:
        """Keep the fields when pickled, as `datasets.map` does with several processes."""
        return partial(type(self), self.what, value=self.value, place=self.place, remedy=self.remedy), ()


@dataclass(frozen=True, slots=True)
class Entity:
    """One mention. `start` and `end` count characters of the sentence, half-open: `sentence[start:end] == text`.

    `score` is the model's confidence in [0, 1], or None if there is none, as in gold data. `ambiguous` is True if the
    surface has several places in the text: the model writes it once and may have meant another (`grounding.ground`).
    The label becomes its NFC, as models write it.

    >>> Entity("company", "三星", 0, 2)
    Entity(label='company', text='三星', start=0, end=2, score=None)
    """

    label: str
    text: str
    start: int
    end: int
    score: float | None = None
    ambiguous: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.label:
            raise NerError("an entity without a label", value=self.text, place=f"[{self.start}, {self.end})")
        if not self.label.isascii():
            object.__setattr__(self, "label", nfc(self.label))
        if not 0 <= self.start < self.end or self.end - self.start != len(self.text):
            what, place = f"not a span of {len(self.text)} characters", f"[{self.start}, {self.end})"
            raise NerError(what, value=self.text, place=place)

    @property
    def span(self) -> tuple[int, int]:
        """The half-open character offsets (start, end)."""
        return self.start, self.end


def in_order(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """In text order; of entities with one beginning the shorter first, of those on one span by their labels."""
    return tuple(sorted(entities, key=lambda e: (e.start, e.end, e.label)))


@dataclass(frozen=True, slots=True)
class Example:
    """One sentence with its entities, in text order, and where it was read from (`train.json:412`).

    Entities may overlap and nest, but no (label, start, end) may occur twice. `group` is what the sentence shares with
    others, a patient or a document: those of one group are not divided between training and validation.

    >>> Example("0", "三星北京", (Entity("address", "北京", 2, 4), Entity("company", "三星", 0, 2))).surfaces
    (('company', '三星'), ('address', '北京'))
    """

    id: str
    text: str
    entities: tuple[Entity, ...] = ()
    source: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        for entity in self.entities:
            found = self.text[entity.start : entity.end]
            if found != entity.text:
                place = f"[{entity.start}, {entity.end})"
                raise NerError(f"expected the surface {entity.text!r}", value=found, place=place)
        entities = in_order(self.entities)
        for before, after in pairwise(entities):
            if (before.label, before.span) == (after.label, after.span):
                place = f"[{after.start}, {after.end})"
                raise NerError(f"the {after.label} occurs twice", value=after.text, place=place)
        object.__setattr__(self, "entities", entities)

    @property
    def surfaces(self) -> tuple[tuple[str, str], ...]:
        """The distinct (label, surface) pairs in text order, which are what the model learns to write."""
        return tuple(dict.fromkeys((e.label, e.text) for e in self.entities))


class TextFault(NerError):
    """One text cannot be read, and is to blame for it: others can."""


@dataclass(frozen=True, slots=True)
class Label:
    """A type of entity. The description appears in guideline prompts and model cards. The name becomes its NFC."""

    name: str
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", nfc(self.name))


@dataclass(frozen=True)
class LabelSet:
    """The labels that a model may write, in the order of prompts and tables; a target has them in text order.

    >>> "game" in CLUENER, CLUENER.names[:3]
    (True, ('address', 'book', 'company'))
    """

    labels: tuple[Label, ...]
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = tuple(label.name for label in self.labels)
        if not names or not all(names) or len(set(names)) < len(names):
            raise NerError("label names must be distinct and not empty", value=list(names), place="labels")
        object.__setattr__(self, "names", names)

    @classmethod
    def of(cls, labels: Iterable[str] | dict[str, str]) -> LabelSet:
        """A label set from names, or from {name: description}.

        >>> LabelSet.of({"drug": "药品名称", "disease": "疾病名称"}).names
        ('drug', 'disease')
        """
        if isinstance(labels, dict):
            return cls(tuple(Label(name, description or "") for name, description in labels.items()))
        return cls(tuple(Label(name) for name in labels))

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)


CLUENER = LabelSet.of(
    {
        "address": "地点：省、市、区、街道、门牌等行政或地理位置",
        "book": "书籍：小说、教材、杂志、诗集等出版物，书名号内外均可",
        "company": "公司：企业、集团、银行（中央银行除外）等营利机构",
        "game": "游戏：电子游戏、网络游戏、手机游戏的名称",
        "government": "政府：中央与地方各级行政机关、司法机关、军队及国外政府部门",
        "movie": "影视：电影、纪录片等影片的名称",
        "name": "人名：真实人物、虚构人物及其绰号",
        "organization": "组织：学校、医院、球队、乐队、协会等非政府、非公司的机构",
        "position": "职位：职务、职业、头衔",
        "scene": "景点：公园、名山、古迹、博物馆等可供游览的地方",
    }
)


def fingerprint(examples: Iterable[Example]) -> str:
    """Sixteen hexadecimal digits that change with any text, label or offset of `examples`, and with their order.

    >>> fingerprint([Example("0", "三星", (Entity("company", "三星", 0, 2),))])
    'e7ec4aaf315d7efd'
    """
    digest = hashlib.sha256()
    for example in examples:
        spans = [(e.label, e.start, e.end) for e in example.entities]
        digest.update(repr((example.text, spans)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
