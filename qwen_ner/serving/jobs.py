"""What the requests of a server wait for: their texts, in windows, and the outcome of each.

In: the texts of a request. Out: windows to read, in order; what was decoded for each text, or why it could not be
read, as soon as it is known. Knows nothing of models and HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..codec import Decoded
from ..inference.windows import Window, join_windows
from .schemas import Refusal


class Job:
    """The texts of one request. `outcomes[i]` is None until text i is read.

    Entities below `min_score` are dropped. `parts` are the windows that are still queued; `read` of all `windows` are
    done. Nobody waits any more for one that is `cancelled`.
    """

    def __init__(self, texts: Sequence[str | Refusal], windows: Sequence[Sequence[Window]], min_score: float) -> None:
        self.texts, self.min_score = texts, min_score
        self.outcomes: list[Decoded | Refusal | None] = [
            text if isinstance(text, Refusal) else None if own else Decoded()
            for text, own in zip(texts, windows, strict=True)
        ]
        self.parts = deque(Part(self, i, window) for i, own in enumerate(windows) for window in own)
        self.windows, self.read = len(self.parts), 0
        self.cancelled = False
        self._own_windows = windows
        self._decoded: list[dict[Window, Decoded]] = [{} for _ in texts]
        self._changed = asyncio.Event()

    @property
    def done(self) -> bool:
        return all(outcome is not None for outcome in self.outcomes)

    @property
    def has_read(self) -> bool:
        """Whether the model has read a text: one that is neither refused nor blank."""
        own = zip(self.outcomes, self._own_windows, strict=True)
        return any(isinstance(outcome, Decoded) and windows for outcome, windows in own)

    async def changed(self) -> None:
        """Return once more of it is done than at the last call."""
        await self._changed.wait()
        self._changed.clear()

    def give_up(self, reason: str) -> None:
        """Refuse the texts that are not read yet."""
        self.outcomes = [outcome or Refusal(reason) for outcome in self.outcomes]

    def take(self, part: Part, found: Decoded | Refusal) -> None:
        """Record the result of `part`; the parts of a text may come in any order."""
        i = part.number
        if self.outcomes[i] is not None:  # refused or given up
            return
        windows, known = self._own_windows[i], self._decoded[i]
        if self.min_score and isinstance(found, Decoded) and found.unscored:
            found = Refusal("the engine gives no probabilities; leave min_score out", status=422)
        if isinstance(found, Refusal):
            self.outcomes[i] = found
            self.read += len(windows) - len(known)  # the others will not be read
        else:
            known[part.window] = found
            self.read += 1
            if len(known) == len(windows):
                self.outcomes[i] = join_windows(((own, known[own]) for own in windows), lambda label: self.min_score)
        self._changed.set()


@dataclass(eq=False)
class Part:
    """A window of text `number` of a job. `answer` is set once it is asked for: see `inference.asked.Asked`."""

    job: Job
    number: int
    window: Window
    answered: bool = False
    answer: Callable[[Decoded | Refusal | None, int], object] = field(init=False)

    @property
    def text(self) -> str:
        return str(self.job.texts[self.number])[self.window.start : self.window.end]

    @property
    def share(self) -> float:
        return self.job.min_score

    def cancelled(self) -> bool:
        """Whether nobody waits for it."""
        return self.job.cancelled or self.job.outcomes[self.number] is not None
