"""What the API accepts and returns: requests, responses, and their OpenAPI documentation.

In: the body of a request; what was decoded for its texts. Out: an `ExtractRequest`, or an `HTTPException` that says why
not; JSON. Knows nothing of sockets and models.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from ..codec import Decoded, entity_row, unique_keys
from ..columns import join_names
from ..entities import LabelSet
from ..files import json_line
from .limits import Limits

LINES_TYPE = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer for one text. `status`, if the text may be well: HTTP's where no text has an answer."""

    reason: str
    status: int | None = field(default=None, repr=False)


_REQUEST: dict[str, Any] = {"texts": ["三星WCG2011北京赛区魔兽争霸3最终名次", "快递太慢了", 7], "min_score": 0.5}

_RESPONSE: dict[str, Any] = {
    "results": [
        {
            "entities": [
                {"label": "address", "text": "北京", "start": 9, "end": 11, "score": 0.9902},
                {"label": "game", "text": "魔兽争霸3", "start": 13, "end": 18, "score": 0.9854},
            ],
            "problems": {},
        },
        {"entities": [], "problems": {}},
        {"error": "expected a string, got a number"},
    ],
    "problems": {},
    "refused": 1,
}


class ExtractRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [_REQUEST]})

    texts: list[Any] = Field(description="The texts. An item that is not a string gets an error in its place.")
    labels: list[str] | None = Field(None, min_length=1, description="Return only entities with these labels.")
    min_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Drop entities with a lower score. Default: 0, of a server that draws several answers 0.5.",
    )
    progress: bool = Field(False, description="When streaming, also send lines that report progress.")


class FoundEntity(BaseModel):
    label: str
    text: str
    start: int = Field(description="Character offset; `text[start:end]` is the entity.")
    end: int
    score: float | None = Field(
        None, description="Confidence in [0, 1]; of a server that draws several answers, the share that has the entity."
    )
    ambiguous: bool = Field(False, description="The surface has several places in the text; another may be meant.")


class TextResult(BaseModel):
    entities: list[FoundEntity]
    problems: dict[str, int] = Field(description="Errors in the model's output, counted by kind.")


class ErrorResponse(BaseModel):
    error: str


class ExtractResponse(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_RESPONSE]})

    results: list[TextResult | ErrorResponse] = Field(description="One per text, in order.")
    problems: dict[str, int] = Field(description="The problems of all results.")
    refused: int = Field(description="Number of texts with an error.")


class ModelInfo(BaseModel):
    model: str = Field(examples=["quickstart"])
    version: str = Field(description="Version of qwen_ner.", examples=["0.1.0"])
    labels: dict[str, str] = Field(description="Names and descriptions.", examples=[{"game": "电子游戏的名称"}])
    scores: dict[str, Any] | None = Field(
        description="The scores in the model's metrics.json; null if there are none.",
        examples=[{"f1": 0.8887, "span_f1": 0.8915, "data": "sample", "split": "dev", "rows": 300, "decoding": "free"}],
    )
    calibrated: bool = Field(description="Whether scores were calibrated on held-out rows.")
    window: int = Field(description="Longer texts are read in windows of this many characters; 0 means never.")
    sampling: dict[str, int | float] = Field(
        description="How answers are written; temperature 0 is greedy.",
        examples=[{"samples": 1, "temperature": 0.0, "top_p": 1.0}],
    )
    limits: dict[str, int | float]


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        401: "The token is missing or wrong.",
        408: "The body arrived too slowly.",
        413: "The request exceeds the limit that the message names.",
        415: "The content type is not application/json.",
        422: "The body is not valid JSON or does not match the schema, or a label or the min_score cannot be used.",
        429: "The queue is full; see the Retry-After header.",
        421: "The server does not answer for the host that the request names.",
        500: "The model failed on all texts that it was to read; see the server's log.",
        503: "The server is shutting down, or what runs the model does not answer; try again later.",
        504: "The request was not finished before the deadline.",
    }.items()
}

LINES: dict[str, Any] = {
    "description": "The entities of each text. With `Accept: application/x-ndjson`, one line per text.",
    "content": {
        LINES_TYPE: {
            "schema": {"type": "string"},
            "example": "".join(json_line({"index": i} | row) for i, row in enumerate(_RESPONSE["results"])),
        }
    },
}
"""The 200 of `/v1/extract`, whose JSON is documented by `ExtractResponse`."""


def document_request(limits: Limits, labels: Sequence[str]) -> dict[str, Any]:
    """The OpenAPI requestBody of a server with these limits; `labels` are named in it unless there are none."""
    schema = ExtractRequest.model_json_schema()
    schema["properties"]["texts"] |= {"maxItems": limits.max_texts}
    if labels:
        schema["properties"]["labels"]["anyOf"][0]["items"] |= {"enum": list(labels)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def read_request(raw: bytes, limits: Limits, labels: LabelSet) -> ExtractRequest:
    """Parse the body of a request; a text that cannot be read becomes a `Refusal`. Raises `HTTPException`: 413
    if it exceeds `limits`, 422 if it is invalid.

    >>> read_request('{"texts": ["三星", 7]}'.encode(), Limits(), LabelSet.of(["company"])).texts
    ['三星', Refusal(reason='expected a string, got a number')]
    """
    try:
        values = json.loads(raw, object_pairs_hook=unique_keys, parse_constant=refuse_constant)
        request = ExtractRequest.model_validate(values)
    except ValidationError as error:
        faults = [": ".join([*filter(None, [".".join(map(str, e["loc"]))]), e["msg"]]) for e in error.errors()]
        raise HTTPException(422, join_names((fault[:200] for fault in faults), 20)) from None
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"the body is not valid JSON: {error}") from None
    characters = sum(len(text) for text in request.texts if isinstance(text, str))
    for count, limit, unit in (
        (len(request.texts), limits.max_texts, "texts"),
        (characters, limits.max_characters, "characters of text"),
    ):
        if count > limit:
            raise HTTPException(413, f"{count:,} {unit} exceed the limit of {limit:,}; split the request")
    if unknown := [label for label in request.labels or () if label not in labels]:
        raise HTTPException(
            422, f"labels: unknown label {unknown[0][:99]!r}; the model has {join_names(labels.names, 20)}"
        )
    return request.model_copy(update={"texts": [_check_text(text) for text in request.texts]})


_KINDS = {bool: "a boolean", type(None): "null", list: "an array", dict: "an object"}


def _check_text(value: Any) -> str | Refusal:
    if not isinstance(value, str):
        return Refusal(f"expected a string, got {_KINDS.get(type(value), 'a number')}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return Refusal(f"character {error.start} is half of a surrogate pair; send the whole character")
    return value


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def to_result(outcome: Decoded | Refusal, request: ExtractRequest) -> dict[str, Any]:
    """The row of one text: a `TextResult` or an `ErrorResponse`."""
    if isinstance(outcome, Refusal):
        return {"error": outcome.reason}
    entities = [entity_row(e) for e in outcome.entities if request.labels is None or e.label in request.labels]
    return {"entities": entities, "problems": Counter(problem.kind for problem in outcome.problems)}


def to_response(outcomes: Iterable[Decoded | Refusal], request: ExtractRequest) -> dict[str, Any]:
    """An `ExtractResponse`."""
    rows = [to_result(outcome, request) for outcome in outcomes]
    problems: Counter[str] = Counter()
    for row in rows:
        problems.update(row.get("problems", {}))
    return {"results": rows, "problems": problems, "refused": sum("error" in row for row in rows)}


def to_json(value: Any) -> bytes:
    """`value` as one line of JSON; lone surrogates, which UTF-8 cannot encode, are escaped. Raises `ValueError` for a
    number that is not finite: JSON has none."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")
