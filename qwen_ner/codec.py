"""Between entities and the JSON that a model writes: prompt messages, target, decoding, grounding.

In: texts, `Example`s, completions. Out: chat messages, target strings, `Decoded` values. The only module that knows the
prompt and the target format; training, evaluation and serving all use it. Knows nothing of tokens, torch or files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, ClassVar, Literal, get_args
from unicodedata import is_normalized

from .columns import join_names
from .composed import composed, nfc
from .entities import Entity, Example, LabelSet, NerError
from .grounding import ground_written

FORMAT_VERSION = 1
"""Version of the target format, stored in `ner_config.json`: a model is only decoded by the rules it was trained on."""

SYSTEM_PROMPT = "你是命名实体识别助手。找出文本中的实体，按类别写成JSON，没有实体就写{}。"

ProblemKind = Literal["not_json", "truncated", "unknown_label", "not_in_text", "duplicate", "wrong_type", "miscopied"]
PROBLEM_KINDS: tuple[ProblemKind, ...] = get_args(ProblemKind)


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a completion: `value` is the faulty part, `label` the key that it is under."""

    kind: ProblemKind
    value: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a completion says about its text: grounded entities in text order, and every problem found.

    `surfaces` are the distinct (label, surface) pairs as written. They include those with an unknown label and those
    that are not in the text, since these are predictions too: false positives. `logprob` is ln P(completion | text), of
    a text that was read in several parts that of the least likely completion; None if there is none.
    """

    entities: tuple[Entity, ...] = ()
    surfaces: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()
    logprob: float | None = field(default=None, compare=False, repr=False)

    @property
    def ungrounded(self) -> tuple[tuple[str, str], ...]:
        """The surfaces without an entity: not in the text, or under an unknown label."""
        grounded = {(e.label, e.text) for e in self.entities}
        return tuple(pair for pair in self.surfaces if pair not in grounded)

    def scored(self, scores: Mapping[tuple[str, str], float]) -> Decoded:
        """A copy in which each entity has the score of its (label, surface), or None if `scores` lacks it.

        Surfaces that have one NFC count as one, since the model writes them alike.
        """
        read = {(label, nfc(surface)): score for (label, surface), score in scores.items()}
        return replace(self, entities=tuple(replace(e, score=read.get((e.label, nfc(e.text)))) for e in self.entities))

    @property
    def unscored(self) -> bool:
        """Whether what wrote the answer gave no probabilities, so that its entities have no scores."""
        return self.logprob is None and any(entity.score is None for entity in self.entities)

    def scored_at_least(self, floor: Callable[[str], float]) -> Decoded:
        """A copy without the entities that score below `floor(label)`, and the surfaces that then have none."""
        kept = tuple(e for e in self.entities if e.score is None or e.score >= floor(e.label))
        gone = {(e.label, e.text) for e in self.entities} - {(e.label, e.text) for e in kept}
        return replace(self, entities=kept, surfaces=tuple(pair for pair in self.surfaces if pair not in gone))


class Codec:
    """Text to messages, `Example` to target, completion to entities: both directions of one format.

    The target is `{"label":["surface",…],…}`: labels in the order of their first entity in the text, the surfaces of a
    label in text order and each only once, compact separators, no ASCII escapes, no absent labels, `{}` if no entity.
    Surfaces are in NFC (`composed`).

    >>> from qwen_ner.entities import CLUENER
    >>> codec = Codec(CLUENER)
    >>> example = Example("0", "三星在北京", (Entity("company", "三星", 0, 2), Entity("address", "北京", 3, 5)))
    >>> codec.encode(example)
    '{"company":["三星"],"address":["北京"]}'
    >>> [(e.label, e.text, e.start, e.end) for e in codec.decode(example.text, codec.encode(example)).entities]
    [('company', '三星', 0, 2), ('address', '北京', 3, 5)]

    `{labels}` in the system prompt is replaced by the labels with their descriptions, one a line: a guideline prompt.

    >>> Codec(LabelSet.of({"drug": "药品名称", "symptom": ""}), "按类别找实体：\\n{labels}").system_prompt
    '按类别找实体：\\n- drug：药品名称\\n- symptom'
    """

    target: ClassVar[str] = "json"
    default_prompt: ClassVar[str] = SYSTEM_PROMPT
    located: ClassVar[bool] = False
    """Whether the target says which of several places of a surface is meant."""

    def __init__(self, labels: LabelSet, system_prompt: str | None = None) -> None:
        if system_prompt is None:
            system_prompt = self.default_prompt
        self.labels = labels
        lines = (f"- {label.name}：{label.description}" if label.description else f"- {label.name}" for label in labels)
        self.system_prompt = system_prompt.replace("{labels}", "\n".join(lines))

    def messages(self, text: str, *, system_turn: bool = True) -> list[dict[str, str]]:
        """The conversation before the assistant's turn, for the tokenizer's chat template.

        Without a `system_turn`, which some templates lack (Gemma, Mistral), the user's begins with the system prompt.

        >>> Codec(LabelSet.of(["drug"]), "找出药名。").messages("吃了阿司匹林", system_turn=False)
        [{'role': 'user', 'content': '找出药名。\\n\\n吃了阿司匹林'}]
        """
        if system_turn:
            return [{"role": "system", "content": self.system_prompt}, {"role": "user", "content": text}]
        head = f"{self.system_prompt}\n\n" if self.system_prompt else ""
        return [{"role": "user", "content": head + text}]

    def encode(self, example: Example) -> str:
        """The target for `example`. Raises `NerError` if an entity has a label that is not in the label set."""
        self.check(example)
        by_label: dict[str, list[str]] = {}
        for label, surface in dict.fromkeys(_written(example)):
            by_label.setdefault(label, []).append(surface)
        return json.dumps(by_label, ensure_ascii=False, separators=(",", ":"))

    def check(self, example: Example) -> None:
        """Raise `NerError` if an entity has a label that is not in the label set."""
        if unknown := {entity.label for entity in example.entities} - set(self.labels.names):
            raise NerError(
                f"the label is not in the label set ({join_names(self.labels.names, 20)})",
                value=", ".join(sorted(unknown)),
                place=example.source or example.id,
                remedy="add it to `labels` in the recipe",
            )

    def unwritten(self, example: Example) -> int:
        """How many entities of `example` the target leaves out."""
        return 0

    def decode(
        self, text: str, completion: str, *, finished: bool = True, forced_surfaces: Set[tuple[str, str]] = frozenset()
    ) -> Decoded:
        """Read a completion for `text`. Never raises: each fault of the completion is a `Problem`.

        `finished` says whether the model wrote its end token. An unfinished completion is `truncated`: it predicts what
        it says if it is valid JSON all the same, and nothing otherwise. `forced_surfaces` are (label, surface) pairs
        that a constraint forced on the model; they are ignored.

        >>> from qwen_ner.entities import CLUENER
        >>> Codec(CLUENER).decode("三星在北京", '{"company":["苹果"]}').problems
        (Problem(kind='not_in_text', value='苹果', label='company'),)
        """
        problems: list[Problem] = [] if finished else [Problem("truncated", completion)]
        try:
            # Pairs, not a dict, which would overwrite a key that is written twice.
            tree = json.loads(completion, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            return Decoded(problems=tuple(problems or [Problem("not_json", completion)]))
        if not isinstance(tree, _Pairs):
            return Decoded(problems=(*problems, Problem("wrong_type", completion)))

        read: Callable[[str], str] = str if is_normalized("NFC", text) else nfc
        whole = read(text)
        surfaces: dict[tuple[str, str], None] = {}
        keys: set[str] = set()
        for label, values in tree:
            if label in keys:
                problems.append(Problem("duplicate", label, label))
            keys.add(label)
            if label not in self.labels:
                problems.append(Problem("unknown_label", label, label))
            if not isinstance(values, list) or isinstance(values, _Pairs):
                problems.append(Problem("wrong_type", _show(values), label))
                values = [values] if isinstance(values, str) else []
            for value in values:
                if not isinstance(value, str) or not value:
                    problems.append(Problem("wrong_type", _show(value), label))
                elif (label, value) in forced_surfaces:
                    continue
                elif (label, value) in surfaces:
                    problems.append(Problem("duplicate", value, label))
                else:
                    surfaces[label, value] = None
                    if label in self.labels and read(value) not in whole:
                        problems.append(Problem("not_in_text", value, label))
        grounded = ground_written(text, (pair for pair in surfaces if pair[0] in self.labels))
        spelled: dict[tuple[str, str], dict[str, None]] = {}
        for entity in grounded:
            spelled.setdefault((entity.label, read(entity.text)), {})[entity.text] = None
        pairs = ((label, own) for label, value in surfaces for own in spelled.get((label, read(value)), [value]))
        return Decoded(grounded, tuple(dict.fromkeys(pairs)), tuple(problems))

    def scored(self, decoded: Decoded, written: Sequence[tuple[tuple[str, str], float]]) -> Decoded:
        """`decoded` with the scores of what was `written`: the (label, surface) pairs of the answer in order.

        Each entity has the score of its pair, of a pair that is written twice the first.
        """
        return decoded.scored(dict(reversed(written)))

    def locate(self, completion: str, *, with_keys: bool = False) -> list[tuple[str, str, int, int]]:
        """(label, surface, start, end) of each surface in a completion, in the order written.

        `completion[start:end]` is the surface as written, with its escapes and closing quote. `with_keys` adds what
        stands before, from the end of the surface before it: the key of its label. The list is empty if a string is
        broken; a completion of another shape than the target's gives no meaningful list.

        >>> Codec(LabelSet.of(["company"])).locate('{"company":["三星"]}')
        [('company', '三星', 13, 16)]
        """
        found: list[tuple[str, str, int, int]] = []
        label, in_list, at, before = "", False, 0, 0
        while at < len(completion):
            if completion[at] == '"':
                try:
                    value, end = scanstring(completion, at + 1)
                except ValueError:
                    return []
                if in_list:
                    found.append((label, value, before if with_keys else at + 1, end))
                    before = end
                else:
                    label = value
                at = end
                continue
            in_list = completion[at] == "[" or (in_list and completion[at] != "]")
            at += 1
        return found


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` that refuses a key given twice, of which `json` would keep the last.

    >>> json.loads('{"a": 1, "a": 2}', object_pairs_hook=unique_keys)
    Traceback (most recent call last):
    qwen_ner.entities.NerError: the key "a" appears twice in one object; merge the two
    """
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise NerError(f"the key {_show(twice)} appears twice in one object", remedy="merge the two")
    return values


def entity_row(entity: Entity) -> dict[str, Any]:
    """An entity as a JSON object, in all files and answers of this package; absent fields are left out.

    >>> entity_row(Entity("company", "三星", 0, 2))
    {'label': 'company', 'text': '三星', 'start': 0, 'end': 2}
    """
    return (
        {"label": entity.label, "text": entity.text, "start": entity.start, "end": entity.end}
        | ({} if entity.score is None else {"score": round(entity.score, 4)})
        | ({"ambiguous": True} if entity.ambiguous else {})
    )


def _written(example: Example) -> Iterable[tuple[str, str]]:
    """(label, surface) of each entity in the NFC of the text; where it cuts a composed character, with the whole."""
    if is_normalized("NFC", example.text):
        return example.surfaces
    whole = composed(example.text)
    spans = ((e.label, *whole.place_in(*e.span)) for e in example.entities)
    return ((label, whole.text[start:end]) for label, start, end in spans)


class _Pairs(list[tuple[str, Any]]):
    """The (key, value) pairs of a JSON object, as a type of their own to tell them from a JSON array."""


def _show(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # `json.loads` goes deeper
        return "…"
