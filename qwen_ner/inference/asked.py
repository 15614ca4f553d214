"""Texts that wait to be read, and why one cannot be.

In: texts, and how many tokens each takes. Out: which leave no room for an answer. Knows nothing of tokenizers and
models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..codec import Decoded
from ..composed import nfc
from ..entities import NerError


class TextTooLong(NerError):
    """Texts that leave no room for an answer; `faults` says what is wrong with each, by its position."""

    def __init__(self, faults: dict[int, str]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"text {i}: {fault}" for i, fault in faults.items()))

    def __reduce__(self) -> Any:
        return TextTooLong, (self.faults,)


def too_long(text: str, room: int, shortest: int, length_of: Callable[[str], int]) -> str | None:
    """What is wrong with `text` if its prompt takes more than `room` tokens; None if it fits.

    `shortest` is the length of the shortest prompt. A token is at least a byte: a text of few enough bytes need not be
    tokenized twice.
    """
    if shortest + len(nfc(text).encode("utf-8", "surrogatepass")) <= room or (length := length_of(text)) <= room:
        return None
    return f"{text[:20]!r}… takes {length} tokens with its prompt, the model has room for {room}; split it"


class Asked(Protocol):
    """A text that waits to be read by `Extractor.serve`. Of several answers, at least a `share` must say the same.

    `answer` is called once, by the thread that reads: with what was decoded and the tokens of prompt and answers, or
    with (None, 0) when `cancelled` had become true before.
    """

    @property
    def text(self) -> str: ...

    @property
    def share(self) -> float: ...

    @property
    def answer(self) -> Callable[[Decoded | None, int], object]: ...

    def cancelled(self) -> bool: ...
