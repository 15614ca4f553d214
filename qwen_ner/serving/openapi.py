"""What the OpenAPI document says of the API beside its paths: bodies, statuses, and examples of a real exchange.

The examples are what the toy of recipes/quickstart.yaml answers. Knows nothing of how an answer is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from ..entities import CLUENER
from .http_io import LINES_TYPE
from .schemas import Answer, ExtractRequest, Limits, ModelInfo, written

ASKED: dict[str, Any] = {"texts": ["三星WCG2011北京赛区魔兽争霸3最终名次", "快递太慢了", 7], "min_score": 0.5}

ANSWERED: dict[str, Any] = {
    "results": [
        {
            "entities": [
                {"label": "address", "text": "北京", "start": 9, "end": 11, "score": 0.9902},
                {"label": "game", "text": "魔兽争霸3", "start": 13, "end": 18, "score": 0.9854},
            ],
            "problems": {},
        },
        {"entities": [], "problems": {}},
        {"error": "it is a number, not a string"},
    ],
    "problems": {},
    "refused": 1,
}

STREAMED = "".join(f"{written({'index': i} | row).decode()}\n" for i, row in enumerate(ANSWERED["results"]))

MODEL_EXAMPLE: dict[str, Any] = {
    "model": "quickstart",
    "version": "0.1.0",
    "labels": {label.name: label.description for label in CLUENER},
    "scores": {
        "f1": 0.8887,
        "span_f1": 0.8915,
        "macro_f1": 0.8924,
        "data": "sample",
        "split": "dev",
        "rows": 300,
        "decoding": "free",
    },
    "calibrated": True,
    "window": 58,
    "limits": asdict(Limits()) | {"body": Limits().body},
}


class Failure(BaseModel):
    error: str


_WHY = {
    401: "The server asks for a token, and none or another one came.",
    408: "The body came too slowly.",
    413: "More bytes, texts or characters than a request may have; the message says how many it may.",
    415: "The body is not said to be JSON.",
    422: "The body is not JSON of this form, or asks for a label that the model does not have.",
    429: "More waits to be read than is held. Retry-After says when to ask again.",
    503: "The server is stopping.",
    504: "Not all was read before the deadline.",
}

_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": why} for status, why in _WHY.items()
}


def request_body(limits: Limits, labels: Sequence[str]) -> dict[str, Any]:
    """What a request to a server with these limits may be."""
    schema = ExtractRequest.model_json_schema()
    schema["properties"]["texts"] |= {"maxItems": limits.max_texts}
    schema["properties"]["labels"]["anyOf"][0]["items"] |= {"enum": list(labels)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": ASKED}}}}


EXTRACT: dict[int | str, dict[str, Any]] = _FAILURES | {
    200: {
        "model": Answer,
        "description": "The entities of each text.",
        "content": {
            "application/json": {"example": ANSWERED},
            LINES_TYPE: {"schema": {"type": "string"}, "example": STREAMED},
        },
    }
}

MODEL: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ModelInfo,
        "description": "What `qwen-ner serve` was given.",
        "content": {"application/json": {"example": MODEL_EXAMPLE}},
    },
    401: _FAILURES[401],
    503: _FAILURES[503],
}

PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"description": "All is well.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    503: {"description": "It is not.", "content": {"text/plain": {"schema": {"type": "string"}}}},
}
