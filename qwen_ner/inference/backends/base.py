"""The seam between `Extractor` and what runs the model.

In: prompts as token ids, and a `Constraint` for each whose answer must follow one. Out: a `Completion` for each, in
order. Knows nothing of labels, JSON or devices.

A new backend is one module with a subclass of `Backend`, and one line in `BACKENDS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from random import Random
from typing import Any, Protocol, TypeVar

from ...entities import NerError

BACKENDS = {
    "torch": "qwen_ner.inference.backends.torch:TorchBackend",
    "http": "qwen_ner.inference.backends.http:HttpBackend",
}
"""Where each backend's class is found: `module:class`. Beside the methods of `Backend` it has a class method
`load(folder, tokenizer, config, *, device=None, dtype="auto")` that makes one from a trained folder; that of "http"
also takes the address of a server, as `url`."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""What the weights may be computed in; "auto" lets the backend choose what suits the device."""

BATCH_TOKENS = 16_384
"""Default for the tokens in a batch, prompts and answers: about 400 MB of keys and values for a 0.5B in float32. On
a GPU the torch backend takes what fits into its memory, and so many for a pass over prompts."""


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one prompt.

    `ids` come without the end token; `finished` says whether the model ended the answer, rather than reached the limit.
    `logprobs` are the natural logarithms of the probabilities that the model gave the tokens, among all tokens of the
    vocabulary: one for each id, and one more where the model wrote the end token itself. None if the backend has none;
    entities then have no score.
    """

    ids: Sequence[int]
    finished: bool = True
    logprobs: Sequence[float] | None = None

    @property
    def logprob(self) -> float | None:
        """That of all of its tokens; None if the backend has none."""
        return None if self.logprobs is None else math.fsum(self.logprobs)

    @property
    def probability(self) -> float:
        """That of all of its tokens; 1.0 if the backend has none."""
        return math.exp(self.logprob or 0.0)


@dataclass(frozen=True, slots=True)
class Draw:
    """How one answer is drawn: each token from softmax(logits / `temperature`), cut to its nucleus.

    The nucleus are the likeliest tokens that together have a probability of at least `top_p` (Holtzman et al., "The
    Curious Case of Neural Text Degeneration", arXiv 1904.09751). `seed` decides the draw: the same prompt with the same
    `Draw` gets the same answer, whatever is written beside it.
    """

    temperature: float
    top_p: float
    seed: int


class Constraint(Protocol):
    """Which tokens one answer may consist of, while it is written: ask, `advance`, ask, …

    `allows` says whether a token may come next; `allowed` lists all that may. `closed` says that only an end token may
    follow, so that a backend need not ask the model. `advance` takes a token, and raises `ValueError` for one that may
    not come. `forecast` gives up to `limit` tokens that are likely to follow, to be used as a draft. `restart` returns
    to the beginning of the answer. `text`, `labels` and `target` are what it was made from, for a server that makes
    it again.
    """

    @property
    def text(self) -> str: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def target(self) -> str: ...
    @property
    def closed(self) -> bool: ...

    def allows(self, token: int) -> bool: ...
    def allowed(self) -> list[int]: ...
    def advance(self, token: int) -> None: ...
    def forecast(self, limit: int) -> list[int]: ...
    def restart(self) -> None: ...


Guide = TypeVar("Guide", bound=Constraint)


class EngineDown(NerError):
    """What runs the model is out of reach: no text is to blame, and each would fail alike."""


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """A prompt that waits for its answer.

    `guide` is the constraint or the hint of the answer, if there is one. `answer` is called once: with the completion,
    or with None when `cancelled` had become true before; it then costs nothing more. With a `draw` the answer is drawn.
    """

    prompt: Sequence[int]
    guide: Constraint | None
    answer: Callable[[Completion | None], object]
    cancelled: Callable[[], bool]
    draw: Draw | None = None


class Row:
    """A request and its answer while it is written: `done` when `finished`, at the limit or `cancelled`.

    It is `answered` once its request knows of that. `guide` is None once the answer has left what it forecasts. With a
    `draw` its tokens are drawn by numbers from its own `random`, so that other rows and drafts change nothing.
    """

    def __init__(self, request: Request, *, done: bool = False, answered: bool = False) -> None:
        self.request, self.prompt, self.guide, self.draw = request, request.prompt, request.guide, request.draw
        self.random = Random(request.draw.seed if request.draw else 0)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.draft: list[int] = []
        self.finished = self.cancelled = False
        self.done, self.answered = done, answered


Feed = Callable[[int], Sequence[Request]]
"""Gives requests that wait, of about so many tokens with their answers; at least one, if any waits."""


class Backend(ABC):
    """Runs a model. Decoding is greedy or drawn, without penalties."""

    max_length: int
    """The context length: the most tokens that a prompt and its answer may have together."""

    @abstractmethod
    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        constraints: Sequence[Constraint] | None = None,
        *,
        draws: Sequence[Draw] | None = None,
        hints: Sequence[Constraint] | None = None,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], object] | None = None,
    ) -> list[Completion]:
        """A completion of up to `limit` new tokens for each of `prompts`, in order.

        Each answer keeps to its constraint, which has been advanced by it afterwards; the backend asks `allows` for the
        model's own choice before it takes another token. With `draws`, one for each prompt, answers are drawn; a
        backend that cannot raises `NerError`. The other options may be ignored: `hints` forecast answers without
        restricting them, `batch_tokens` bounds the tokens in a batch, and `on_rows` is called with the number of
        prompts each time that some are done.
        """

    def search(
        self, prompts: Sequence[Sequence[int]], limit: int, constraints: Sequence[Guide], beams: int, **options: Any
    ) -> list[list[tuple[Completion, Guide]]]:
        """Up to `beams` different answers to each of `prompts`: greedy's first, then others from likely to unlikely.

        Each comes with a copy of its constraint that it has advanced; those given stay as they are. The probability of
        an answer is the product of its tokens'. `options` are `batch_tokens` and `on_rows` of `complete`. Raises
        `NerError` for a backend that has no method of its own for this.
        """
        raise NerError("this engine does not search", value=beams, place="beams", remedy="use the engine torch")

    def serve(self, feed: Feed, limit: int, *, batch_tokens: int | None = None) -> None:
        """Complete what `feed` gives, each with up to `limit` new tokens that keep to its guide.

        `feed` is asked again while others are written; each request is answered as soon as it is done. Returns once
        `feed` gives none and all are answered. If it raises, those without an answer may be asked for again. A backend
        without a method of its own reads batch after batch.
        """
        while some := feed(batch_tokens or BATCH_TOKENS):
            prompts = [request.prompt for request in some]
            guides = [request.guide for request in some if request.guide]
            draws = [request.draw for request in some if request.draw]
            drawn: dict[str, Any] = {"draws": draws} if draws else {}
            completions = self.complete(prompts, limit, guides, batch_tokens=batch_tokens, **drawn)
            for request, completion in zip(some, completions, strict=True):
                request.answer(completion)


def backend_class(name: str) -> Any:
    """The class of the backend `name`, imported now. Raises `NerError` for a name that is not in `BACKENDS`."""
    if name not in BACKENDS:
        raise NerError("unknown backend", value=name, place="backend", remedy=f"choose one of: {', '.join(BACKENDS)}")
    return resolve_name(BACKENDS[name])
