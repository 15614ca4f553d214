"""A request and its answer, while a batch is written.

In: a request. Out: what was written of its answer so far. Knows nothing of models.
"""

from __future__ import annotations

from random import Random

from .base import Request


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
