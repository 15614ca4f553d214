"""Requests that come at the same time, read by one model together.

In: an Extractor and the texts of each request. Out: what was found in each text, or why it could not be read, as soon
as it is known. A request whose text fails, or that is given up, does not touch the others. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..codec import Decoded
from ..entities import NerError
from ..inference.backends.torch import BATCH_TOKENS
from ..inference.extractor import Extractor, joined
from ..inference.windows import Window

log = logging.getLogger(__name__)

WAITING_SHARE = 0.02
"""Of the seconds that a batch took: how long those are waited for at most that are likely to follow it."""

RETRY_SECONDS = (1, 60)
"""The least and the most that a refused request is told to wait."""


class QueueFull(Exception):
    """More waits to be read than is held; it may have gone after `seconds`."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"try again in {seconds} s")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why one text was not read."""

    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read at a time: windows of texts, of how many requests, the tokens of prompts and answers, and how long
    it took."""

    windows: int
    requests: int
    characters: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Part:
    """A window of text number `text` of a request."""

    text: int
    window: Window


class Job:
    """The texts of one request on their way; `outcomes[i]` is None as long as text i has not been read.

    `floor` is the least score of an entity. `parts` are the windows that have not begun, `read` of all `windows` have
    been read, or will not be.
    """

    def __init__(self, texts: Sequence[str | Refused], windows: Sequence[Sequence[Window]], floor: float) -> None:
        self.texts, self.floor = texts, floor
        self.outcomes: list[Decoded | Refused | None] = [
            text if isinstance(text, Refused) else None if own else Decoded()
            for text, own in zip(texts, windows, strict=True)
        ]
        self.parts = deque(Part(i, window) for i, own in enumerate(windows) for window in own)
        self.windows, self.read = len(self.parts), 0
        self._missing = [len(own) for own in windows]
        self._found: list[list[Decoded]] = [[] for _ in texts]
        self._changed = asyncio.Event()

    @property
    def done(self) -> bool:
        return self.read == self.windows

    async def changed(self) -> None:
        """Return once more of it has been read than at the last call."""
        await self._changed.wait()
        self._changed.clear()

    async def finished(self) -> None:
        while not self.done:
            await self.changed()

    def give_up(self, why: str) -> None:
        """Call the texts `Refused` that have not been read whole."""
        self.outcomes = [outcome or Refused(why) for outcome in self.outcomes]

    def take(self, part: Part, found: Decoded | Refused) -> None:
        """What was found in `part`, or that it will not be read; the parts of a text come in order."""
        i = part.text
        self.read += 1
        self._missing[i] -= 1
        if isinstance(found, Refused):
            self.outcomes[i] = self.outcomes[i] or found
        else:
            kept = found.scored_at_least(lambda label: self.floor)
            self._found[i].append(replace(kept, entities=part.window.entities(kept.entities)))
        if not self._missing[i]:
            self.outcomes[i] = self.outcomes[i] or joined(self._found[i])
            self._found[i] = []
        self._changed.set()


class Batcher:
    """One model and the requests that wait for it. Its methods belong to one event loop, the model to one thread.

    A batch takes windows from all waiting requests in turn, up to `batch_tokens`, so that a long document does not keep
    a sentence waiting for longer than a batch. What comes while the model is idle is read at once, but for this: right
    behind a batch of several requests, which are likely to be followed by others, the model stays idle until as many
    have come, for `max_wait` seconds or `WAITING_SHARE` of that batch's at most. No more than `max_waiting` tokens
    wait, but for a request that comes alone. Both limits count prompt, answer and each character as a token.
    """

    def __init__(
        self,
        extractor: Extractor,
        *,
        batch_tokens: int = BATCH_TOKENS,
        max_wait: float = 0.01,
        max_waiting: int = 1_000_000,
        on_batch: Callable[[Batch], object] = lambda batch: None,
    ) -> None:
        self.extractor = extractor
        self.batch_tokens, self.max_wait, self.max_waiting = batch_tokens, max_wait, max_waiting
        self.on_batch = on_batch
        self.tokens = 0  # that wait
        self.waiting: deque[Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._arrived = asyncio.Event()
        self._expected, self._ended = 1, -math.inf  # requests behind the last batch, and when it ended
        self._patience = max_wait
        self._rate = 0.0  # tokens a second
        config = extractor.config
        self._fixed = config.max_new_tokens + len(config.codec().system_prompt)

    def submit(self, texts: Sequence[str | Refused], floor: float = 0.0) -> Job:
        """A job for `texts`, of which those that are `Refused` stay so. Raises `QueueFull` where they find no room."""
        job = Job(texts, [self.extractor.windows(text) if isinstance(text, str) else [] for text in texts], floor)
        size = sum(map(self._size, job.parts))
        if self.tokens and self.tokens + size > self.max_waiting:
            least, most = RETRY_SECONDS
            raise QueueFull(min(most, max(least, math.ceil(self.tokens / self._rate) if self._rate else least)))
        if job.parts:
            self.waiting.append(job)
            self.tokens += size
            self._arrived.set()
        return job

    def cancel(self, job: Job) -> None:
        """Give `job` up: what has not begun is not read."""
        if job.parts:
            self.waiting.remove(job)
            self.tokens -= sum(map(self._size, job.parts))
            job.parts.clear()

    async def run(self) -> None:
        """Read what comes, until cancelled; a batch that was begun is read to its end."""
        loop = asyncio.get_running_loop()
        while True:
            await self._enough()
            batch = self._batch()
            started, tokens = time.perf_counter(), self.extractor.tokens
            texts = [str(job.texts[part.text])[part.window.start : part.window.end] for job, part in batch]
            found = await loop.run_in_executor(self._thread, self._read, texts)
            for (job, part), one in zip(batch, found, strict=True):
                job.take(part, one)
                if isinstance(one, Refused):
                    self._leave_out(job, part.text, one)
            self._ended = time.perf_counter()
            seconds, size = self._ended - started, sum(self._size(part) for _, part in batch)
            jobs = {id(job): job for job, _ in batch}.values()
            self._expected = len(self.waiting) + sum(job.done for job in jobs)
            self._patience = max(self.max_wait, WAITING_SHARE * seconds)
            self._rate += (size / seconds - self._rate) * (0.2 if self._rate else 1.0)
            self.on_batch(Batch(len(batch), len(jobs), sum(map(len, texts)), self.extractor.tokens - tokens, seconds))

    def close(self) -> None:
        """End the model's thread, once the batch in hand is read."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _enough(self) -> None:
        """Wait for a job, and for those that are likely to follow it."""
        while not self.waiting:
            self._arrived.clear()
            await self._arrived.wait()
        now = time.perf_counter()
        until = now + self._patience
        if now - self._ended > self._patience:
            return
        while len(self.waiting) < self._expected and (left := until - time.perf_counter()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except asyncio.TimeoutError:
                return

    def _size(self, part: Part) -> int:
        """The tokens that `part` may come to with prompt and answer, a character counted as one."""
        return self._fixed + part.window.end - part.window.start

    def _batch(self) -> list[tuple[Job, Part]]:
        """What to read next: a part of each waiting job in turn."""
        batch: list[tuple[Job, Part]] = []
        tokens = 0
        while self.waiting:
            job = self.waiting[0]
            tokens += self._size(job.parts[0])
            if batch and tokens > self.batch_tokens:
                break
            batch.append((job, self._next(job)))
            if job.parts:
                self.waiting.rotate(-1)
        return batch

    def _next(self, job: Job) -> Part:
        """The first part of `job`, which no longer waits; nor does the job, if it was the last."""
        part = job.parts.popleft()
        self.tokens -= self._size(part)
        if not job.parts:
            self.waiting.remove(job)
        return part

    def _leave_out(self, job: Job, i: int, why: Refused) -> None:
        """The parts of text `i` that have not begun: it will not be whole."""
        while job.parts and job.parts[0].text == i:
            job.take(self._next(job), why)

    def _read(self, texts: Sequence[str]) -> list[Decoded | Refused]:
        """What the model says of each of `texts`, or why it says nothing. In the model's thread."""
        faults = self.extractor.overlong(texts)
        found = iter(self._decoded([text for i, text in enumerate(texts) if i not in faults]))
        return [Refused(faults[i]) if i in faults else next(found) for i in range(len(texts))]

    def _decoded(self, texts: Sequence[str]) -> list[Decoded | Refused]:
        """As `_read`, for texts that fit. What fails is tried again by halves, down to the text that it fails on."""
        if not texts:
            return []
        try:
            return list(self.extractor.read(texts, batch_tokens=self.batch_tokens))
        except NerError as error:
            if len(texts) == 1:
                return [Refused(str(error))]
        except Exception as error:
            if len(texts) == 1:
                log.exception("The model failed on a text of %d characters.", len(texts[0]))
                return [Refused(f"the model failed on it ({type(error).__name__}); the server's log says more")]
        half = len(texts) // 2
        return [*self._decoded(texts[:half]), *self._decoded(texts[half:])]
