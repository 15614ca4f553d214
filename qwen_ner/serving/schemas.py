"""What the API takes and gives: its limits, requests as they are read, answers as they are written.

In: the bytes of a request's body, what was found in its texts. Out: an `Asked`, or a `Fault` with an HTTP status; JSON.
Knows nothing of sockets and models.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..codec import Decoded, entity_row
from ..entities import LabelSet, NerError
from ..inference.backends.torch import BATCH_TOKENS
from .batcher import Refused


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes: texts and characters of one request, seconds until its `deadline`; the others are
    `batching.Batcher`'s. Raises `NerError` for one that lets nothing through."""

    max_texts: int = 1000
    max_characters: int = 100_000
    max_waiting: int = 1_000_000
    batch_tokens: int = BATCH_TOKENS
    max_wait: float = 0.01
    deadline: float = 120.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (0 <= value < math.inf if name == "max_wait" else 0 < value < math.inf):
                raise NerError(f"--{name.replace('_', '-')}: {value} lets no request through; take another number")

    @property
    def body(self) -> int:
        """Bytes of a request. A character takes up to 12 in JSON, as two \\u escapes."""
        return 12 * self.max_characters + 8 * self.max_texts + 4096


class Fault(Exception):
    """Why a request is not answered: an HTTP status, a message, and headers beside it."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(message)


class ExtractRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    texts: list[Any] = Field(description="Strings, read in this order. What is none gets an error in its place.")
    labels: list[str] | None = Field(None, min_length=1, description="Entities of these labels only.")
    min_score: float = Field(0.0, ge=0, le=1, description="Leave out entities of less confidence.")
    progress: bool = Field(False, description="In a stream: lines that say how many of the windows have been read.")


class FoundEntity(BaseModel):
    label: str
    text: str
    start: int = Field(description="Counts characters of the text; `text[start:end]` is the entity's.")
    end: int
    score: float | None = Field(None, description="The confidence, in [0, 1].")
    ambiguous: bool = Field(False, description="The text has this surface more than once.")


class FoundInText(BaseModel):
    entities: list[FoundEntity]
    problems: dict[str, int] = Field(description="What the model wrote wrongly, counted by kind.")


class NotRead(BaseModel):
    error: str


class Answer(BaseModel):
    results: list[FoundInText | NotRead] = Field(description="One a text, in order.")
    problems: dict[str, int] = Field(description="Those of all results.")
    refused: int = Field(description="Texts that have an error instead of entities.")


class ModelInfo(BaseModel):
    model: str
    version: str = Field(description="Of qwen_ner.")
    labels: dict[str, str] = Field(description="Their names and descriptions.")
    scores: dict[str, Any] | None = Field(description="What the model's card has, null where it was not scored.")
    calibrated: bool = Field(description="Whether scores were fitted to held-out rows.")
    window: int = Field(description="Characters from which on a text is read in parts; 0 for never.")
    limits: dict[str, int | float]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood; texts that cannot be read are `Refused` already."""

    texts: list[str | Refused]
    labels: frozenset[str] | None = None
    min_score: float = 0.0
    progress: bool = False


def read_request(raw: bytes, limits: Limits, labels: LabelSet) -> Asked:
    """What the body of a request asks for. Raises `Fault`: 413 beyond `limits`, 422 where it is not understood.

    >>> read_request('{"texts": ["三星", 7]}'.encode(), Limits(), LabelSet.of(["company"])).texts
    ['三星', Refused(reason='it is a number, not a string')]
    """
    try:
        values = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_number)
        asked = ExtractRequest.model_validate(values)
    except ValidationError as error:
        faults = ("".join(f"{'.'.join(map(str, e['loc']))}: " * bool(e["loc"]) + e["msg"]) for e in error.errors())
        raise Fault(422, "; ".join(faults)) from None
    except (ValueError, RecursionError) as error:
        raise Fault(422, f"the body cannot be read as JSON: {error}") from None
    if len(asked.texts) > limits.max_texts:
        raise Fault(413, f"{len(asked.texts):,} texts; {limits.max_texts:,} are the most of a request: send several")
    characters = sum(len(text) for text in asked.texts if isinstance(text, str))
    if characters > limits.max_characters:
        raise Fault(
            413, f"{characters:,} characters of text; {limits.max_characters:,} are the most of a request: send several"
        )
    if unknown := [label for label in asked.labels or () if label not in labels]:
        raise Fault(422, f"labels: {unknown[0]!r} is none of the model's, which are {', '.join(labels.names)}")
    return Asked(
        [_text(text) for text in asked.texts],
        None if asked.labels is None else frozenset(asked.labels),
        asked.min_score,
        asked.progress,
    )


_KINDS = {
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
    list: "an array",
    dict: "an object",
}


def _text(value: Any) -> str | Refused:
    if not isinstance(value, str):
        return Refused(f"it is {_KINDS[type(value)]}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return Refused(f"character {error.start} is half a surrogate pair; write the character whole")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def result(outcome: Decoded | Refused, asked: Asked) -> dict[str, Any]:
    """The row of one text: a `FoundInText` or a `NotRead`."""
    if isinstance(outcome, Refused):
        return {"error": outcome.reason}
    wanted = (e for e in outcome.entities if asked.labels is None or e.label in asked.labels)
    return {"entities": [entity_row(e) for e in wanted], "problems": Counter(p.kind for p in outcome.problems)}


def answer(outcomes: Iterable[Decoded | Refused], asked: Asked) -> dict[str, Any]:
    """An `Answer`."""
    rows = [result(outcome, asked) for outcome in outcomes]
    problems: Counter[str] = Counter()
    for row in rows:
        problems.update(row.get("problems", {}))
    return {"results": rows, "problems": problems, "refused": sum("error" in row for row in rows)}


def written(value: Any) -> bytes:
    """`value` as one line of JSON; what UTF-8 cannot spell is escaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
