"""Batch concurrent requests for one model.

In: an Extractor and the texts of each request. Out: what was decoded for each text, or why it could not be read, as
soon as it is known. A text that fails or a request that is cancelled does not affect the others. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..codec import Decoded
from ..entities import NerError
from ..inference.extractor import Extractor, join_windows
from ..inference.sampling import GREEDY, Sampling
from ..inference.windows import Window
from .limits import Limits
from .schemas import Refusal

log = logging.getLogger(__name__)

WAITING_SHARE = 0.02
"""How long to wait at most for requests that are likely to follow a batch, as a share of the time that it took."""

MOST_WAITING = 1024
"""Requests that may wait, whatever their size: each holds a connection."""

RETRY_SECONDS = (1, 60)
"""Bounds of the wait that a refused request is told."""


class QueueFull(Exception):
    """The queue has no room for a request; `seconds` is when to try again."""

    def __init__(self, found: int, limit: int, unit: str, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"the queue is full ({found:,} {unit}, limit {limit:,}); try again in {seconds} s")


@dataclass(frozen=True, slots=True)
class Part:
    """A window of text number `text` of a request."""

    text: int
    window: Window


class Job:
    """The texts of one request. `outcomes[i]` is None until text i is read.

    Entities below `min_score` are dropped. `parts` are the windows that are still queued; `read` of all `windows` are
    done.
    """

    def __init__(self, texts: Sequence[str | Refusal], windows: Sequence[Sequence[Window]], min_score: float) -> None:
        self.texts, self.min_score = texts, min_score
        self.outcomes: list[Decoded | Refusal | None] = [
            text if isinstance(text, Refusal) else None if own else Decoded()
            for text, own in zip(texts, windows, strict=True)
        ]
        self.parts = deque(Part(i, window) for i, own in enumerate(windows) for window in own)
        self.windows, self.read = len(self.parts), 0
        self._lengths = [len(own) for own in windows]
        self._decoded: defaultdict[int, list[tuple[Window, Decoded]]] = defaultdict(list)
        self._changed = asyncio.Event()

    @property
    def done(self) -> bool:
        return all(outcome is not None for outcome in self.outcomes)

    async def changed(self) -> None:
        """Return once more of it is done than at the last call."""
        await self._changed.wait()
        self._changed.clear()

    def give_up(self, reason: str) -> None:
        """Refuse the texts that are not read yet."""
        self.outcomes = [outcome or Refusal(reason) for outcome in self.outcomes]

    def take(self, part: Part, found: Decoded | Refusal) -> None:
        """Record the result of `part`; the parts of a text come in order."""
        i = part.text
        self.read += 1
        if self.outcomes[i] is not None:  # refused or given up
            pass
        elif isinstance(found, Refusal):
            self.outcomes[i] = found
        else:
            self._decoded[i].append((part.window, found))
            if len(self._decoded[i]) == self._lengths[i]:
                self.outcomes[i] = join_windows(self._decoded.pop(i), lambda label: self.min_score)
        self._changed.set()


class Batcher:
    """One model and the requests that wait for it. Its methods belong to one event loop, the model to one thread.

    A batch takes windows from all waiting requests in turn, up to `batch_tokens`, so that a long document delays a
    sentence by one batch at most. A request that finds the model idle is read at once, with one exception: after a
    batch of several requests, which are likely to be followed by others, the model waits until as many have arrived,
    for at most `max_wait` seconds or `WAITING_SHARE` of the last batch's time, whichever is longer. No more than
    `max_waiting` tokens and `MOST_WAITING` requests may wait, except for a request that finds the queue empty. Both
    limits of tokens count prompt, answer and each character as a token, for each of the answers that `sampling` draws.
    `on_batch` is called after each batch: see `metrics.Monitor.batch`.
    """

    def __init__(
        self, extractor: Extractor, limits: Limits, on_batch: Callable[..., object], sampling: Sampling = GREEDY
    ) -> None:
        self.extractor, self.limits, self.on_batch, self.sampling = extractor, limits, on_batch, sampling
        self.tokens = 0  # in the queue
        self.waiting: deque[Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._arrived = asyncio.Event()
        self._expected, self._ended = 1, -math.inf  # requests expected after the last batch, and when it ended
        self._patience = limits.max_wait
        self._rate = 0.0  # tokens per second
        config = extractor.config
        self._fixed = config.max_new_tokens + len(config.codec().system_prompt)

    def submit(self, texts: Sequence[str | Refusal], min_score: float = 0.0) -> Job:
        """Queue `texts`; those that are `Refusal`s stay so. Raises `QueueFull` if there is no room."""
        windows = [self.extractor.windows(text) if isinstance(text, str) else [] for text in texts]
        job = Job(texts, windows, min_score)
        size = sum(map(self._size, job.parts))
        full = (
            (self.tokens, self.limits.max_waiting, "tokens") if self.tokens + size > self.limits.max_waiting else None
        )
        if len(self.waiting) >= MOST_WAITING:
            full = len(self.waiting), MOST_WAITING, "requests"
        if full and self.tokens and job.parts:
            least, most = RETRY_SECONDS
            seconds = math.ceil(self.tokens / self._rate) if self._rate else least
            raise QueueFull(*full, min(most, max(least, seconds)))
        if job.parts:
            self.waiting.append(job)
            self.tokens += size
            self._arrived.set()
        return job

    def cancel(self, job: Job, text: int | None = None) -> None:
        """Drop what is still queued of `job`, or only of its text number `text`."""
        kept = deque(part for part in job.parts if text not in (None, part.text))
        self.tokens -= sum(map(self._size, job.parts)) - sum(map(self._size, kept))
        if job.parts and not kept:
            self.waiting.remove(job)
        job.read += len(job.parts) - len(kept)  # dropped parts will not be read
        job.parts = kept

    async def run(self) -> None:
        """Read what is queued, until cancelled; a batch that has begun is finished."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_jobs()
            batch = self._next_batch()
            started, tokens = time.perf_counter(), self.extractor.tokens
            texts = [str(job.texts[part.text])[part.window.start : part.window.end] for job, part in batch]
            results = await loop.run_in_executor(self._thread, self._read, texts)
            for (job, part), found in zip(batch, results, strict=True):
                job.take(part, found)
                if isinstance(found, Refusal):
                    self.cancel(job, part.text)
            self._ended = time.perf_counter()
            seconds, size = self._ended - started, sum(self._size(part) for _, part in batch)
            jobs = {id(job): job for job, _ in batch}.values()
            self._expected = len(self.waiting) + sum(job.done for job in jobs)
            self._patience = max(self.limits.max_wait, WAITING_SHARE * seconds)
            self._rate += (size / seconds - self._rate) * (0.2 if self._rate else 1.0)
            self.on_batch(len(batch), len(jobs), sum(map(len, texts)), self.extractor.tokens - tokens, seconds)

    def close(self) -> None:
        """Stop the model's thread after the current batch."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _wait_for_jobs(self) -> None:
        """Wait for a job, and for those that are likely to follow it."""
        while not self.waiting:
            self._arrived.clear()
            await self._arrived.wait()
        now = time.perf_counter()
        if now - self._ended > self._patience:
            return
        until = now + self._patience
        while len(self.waiting) < self._expected and (left := until - time.perf_counter()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except asyncio.TimeoutError:
                return

    def _size(self, part: Part) -> int:
        """An upper estimate of the tokens of `part` with prompt and answers, one per character."""
        return self.sampling.samples * (self._fixed + part.window.end - part.window.start)

    def _next_batch(self) -> list[tuple[Job, Part]]:
        """Take a part of each waiting job in turn from the queue."""
        batch: list[tuple[Job, Part]] = []
        tokens = 0
        while self.waiting:
            job = self.waiting[0]
            size = self._size(job.parts[0])
            if batch and tokens + size > self.limits.batch_tokens:
                break
            tokens += size
            batch.append((job, job.parts.popleft()))
            self.waiting.popleft()
            if job.parts:
                self.waiting.append(job)
        self.tokens -= tokens
        return batch

    def _read(self, texts: Sequence[str]) -> list[Decoded | Refusal]:
        """Decode each of `texts`, or say why not. Runs in the model's thread."""
        faults = self.extractor.overlong(texts)
        decoded = iter(self._read_fitting([text for i, text in enumerate(texts) if i not in faults]))
        return [Refusal(faults[i]) if i in faults else next(decoded) for i in range(len(texts))]

    def _read_fitting(self, texts: Sequence[str]) -> list[Decoded | Refusal]:
        """As `_read`, for texts that fit the context. A batch that fails is halved until the culprit is alone."""
        if not texts:
            return []
        try:
            tokens = self.limits.batch_tokens
            return [_check(found) for found in self.extractor.read(texts, sampling=self.sampling, batch_tokens=tokens)]
        except NerError as error:
            if len(texts) == 1:
                return [Refusal(str(error), fault=True)]
        except Exception as error:
            if len(texts) == 1:
                log.exception("The model failed on a text of %d characters.", len(texts[0]))
                reason = f"the model failed on this text ({type(error).__name__}); see the server's log"
                return [Refusal(reason, fault=True)]
        half = len(texts) // 2
        return [*self._read_fitting(texts[:half]), *self._read_fitting(texts[half:])]


def _check(found: Decoded) -> Decoded | Refusal:
    if all(entity.score is None or math.isfinite(entity.score) for entity in found.entities):
        return found
    return Refusal("the model's scores are not finite numbers; its weights may be damaged", fault=True)
