"""A request and its answer, while a batch is written.

In: a request. Out: what was written of its answer so far. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from .base import Constraint, Draw, Request


@dataclass(eq=False)
class Row:
    """A request and its answer while it is written: `done` when `finished`, at the limit or `cancelled`.

    It is `answered` once its request knows of that. `guide` is None once the answer has left what it forecasts. With a
    `draw` its tokens are drawn by numbers from its own `random`, so that other rows and drafts change nothing.
    """

    request: Request
    guide: Constraint | None = field(init=False)
    random: Random = field(init=False, repr=False)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False
    cancelled: bool = False
    done: bool = False
    answered: bool = False
    draft: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.guide = self.request.guide
        self.random = Random(self.draw.seed if self.draw else 0)

    @property
    def prompt(self) -> Sequence[int]:
        return self.request.prompt

    @property
    def draw(self) -> Draw | None:
        return self.request.draw
