"""Texts that wait to be read, and what a backend is asked for them.

In: texts, each with one to answer to; the prompts and constraints made of them. Out: requests, an answer to each text
once all of its own are completed, or why it cannot be read. Knows nothing of tokenizers and entities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from ..codec import Decoded
from ..entities import NerError
from .backends.base import Backend, BeamBackend, Completion, Constraint, Draw, Feed, Guide, Request, ServingBackend


class TextTooLong(NerError):
    """Texts that leave no room for an answer; `faults` says what is wrong with each, by its position."""

    def __init__(self, faults: dict[int, str]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"text {i}: {fault}" for i, fault in faults.items()))

    def __reduce__(self) -> Any:
        return TextTooLong, (self.faults,)


def overlong(texts: Iterable[str], length_of: Callable[[str], int], room: int) -> dict[int, str]:
    """What is wrong with those of `texts` whose prompt takes more than `room` tokens, by their position."""
    shortest = length_of("。")
    faults: dict[int, str] = {}
    for i, text in enumerate(texts):
        # A token is at least a byte: a text of few enough bytes need not be tokenized twice.
        if shortest + len(text.encode("utf-8", "surrogatepass")) <= room:
            continue
        if (length := length_of(text)) > room:
            found = f"takes {length} tokens with its prompt, the model has room for {room}"
            faults[i] = f"{text[:20]!r}… {found}; split it"
    return faults


class Asked(Protocol):
    """A text that waits to be read by `Extractor.serve`.

    `answer` is called once, by the thread that reads: with what was decoded and the tokens of prompt and answers, or
    with (None, 0) when `cancelled` had become true before.
    """

    @property
    def text(self) -> str: ...

    @property
    def answer(self) -> Callable[[Decoded | None, int], object]: ...

    def cancelled(self) -> bool: ...


def requests_of(
    prompt: Sequence[int],
    guides: Sequence[Constraint],
    draws: Sequence[Draw | None],
    answer: Callable[[Sequence[Completion] | None], object],
    cancelled: Callable[[], bool],
) -> list[Request]:
    """A request to complete `prompt` for each of `guides` and `draws`.

    With the last of them `answer` is called, once: with all completions, in order, or with None if one is cancelled.
    """
    written: dict[int, Completion | None] = {}

    def take(number: int, completion: Completion | None) -> None:
        written[number] = completion
        if len(written) == len(guides):
            whole = [one for _, one in sorted(written.items()) if one is not None]
            answer(whole if len(whole) == len(guides) else None)

    both = zip(guides, draws, strict=True)
    return [Request(prompt, guide, partial(take, n), cancelled, draw) for n, (guide, draw) in enumerate(both)]


def search_with(
    backend: Backend, prompts: Sequence[Sequence[int]], limit: int, guides: Sequence[Guide], beams: int, **options: Any
) -> list[list[tuple[Completion, Guide]]]:
    """See `BeamBackend.search`. Raises `NerError` for a backend that is none."""
    if not isinstance(backend, BeamBackend):
        what, remedy = "this engine does not search for beams", "leave it out, or use the engine torch"
        raise NerError(what, value=beams, place="beams", remedy=remedy)
    return backend.search(prompts, limit, guides, beams, **options)


def serve_with(backend: Backend, feed: Feed, limit: int, batch_tokens: int) -> None:
    """See `ServingBackend.serve`: its own if it has one, else batch after batch."""
    if isinstance(backend, ServingBackend):
        backend.serve(feed, limit, batch_tokens=batch_tokens)
        return
    while some := feed(batch_tokens):
        prompts = [request.prompt for request in some]
        guides = [request.guide for request in some if request.guide]
        draws = [request.draw for request in some if request.draw]
        drawn: dict[str, Any] = {"draws": draws} if draws else {}
        completions = backend.complete(prompts, limit, guides, batch_tokens=batch_tokens, **drawn)
        for request, completion in zip(some, completions, strict=True):
            request.answer(completion)
