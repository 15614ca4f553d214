"""How much a server accepts: the one place of the limits, their defaults, and what they mean.

In: numbers. Out: `Limits`, whose fields are the options of `qwen-ner serve`. Knows nothing of HTTP, and needs none
of the packages of the `serve` extra.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..entities import NerError


def _limit(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server accepts. Raises `NerError` for a limit that would let no request through."""

    batch_tokens: int = _limit(16_384, "tokens in a batch; lower it if memory is short or latency too high")
    max_texts: int = _limit(1000, "most texts in a request")
    max_characters: int = _limit(100_000, "most characters in a request")
    max_waiting: int = _limit(1_000_000, "queue limit in tokens; further requests get HTTP 429")
    max_requests: int = _limit(1024, "most requests in the queue; each may take four open files")
    deadline: float = _limit(120.0, "seconds after which a request gets HTTP 504")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value < math.inf:
                what, place = "the limit must be positive and finite", f"--{name.replace('_', '-')}"
                raise NerError(what, value=value, place=place, remedy="give a number above 0")

    @property
    def body(self) -> int:
        """Maximum size of a request body in bytes. A character takes up to 12 in JSON, as two \\u escapes."""
        return 12 * self.max_characters + 8 * self.max_texts + 4096
