"""Let concurrent requests share one model.

In: an Extractor and the texts of each request. Out: what was decoded for each text, or why it could not be read, as
soon as it is known. A text that fails or a request that is cancelled does not affect the others. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock

from ..codec import Decoded
from ..inference.backends.base import EngineDown
from ..inference.extractor import Extractor
from ..inference.sampling import GREEDY, Sampling
from .jobs import Batch, Job, Part
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


class Batcher:
    """One model and the requests that wait for it. Its methods belong to one event loop, the model to one thread.

    The model takes windows from all waiting requests in turn, as many as `batch_tokens` have room for, and goes on
    doing so while it reads others, so that a long document does not delay a sentence. A request that finds the model
    idle is read at once, with one exception: after several that ended together, which are likely to be followed by
    others, the model waits until as many have arrived, for at most `max_wait` seconds or `WAITING_SHARE` of the last
    batch's time, whichever is longer. No more than `max_waiting` tokens and `MOST_WAITING` requests may wait, except
    for a request that finds the queue empty. Both limits of tokens count prompt, answer and each character as a token,
    for each of the answers that `sampling` draws. `on_batch` is called after each batch: see `metrics.Monitor.batch`.
    """

    def __init__(
        self, extractor: Extractor, limits: Limits, on_batch: Callable[..., object], sampling: Sampling = GREEDY
    ) -> None:
        self.extractor, self.limits, self.on_batch, self.sampling = extractor, limits, on_batch, sampling
        self.tokens = 0  # in the queue
        self.waiting: deque[Job] = deque()
        self._queue = Lock()  # of `waiting`, `tokens` and the parts of jobs, which the model's thread takes from
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._closed = False
        self._arrived = asyncio.Event()
        self._expected, self._ended = 1, -math.inf  # requests expected after the last batch, and when it ended
        self._patience = limits.max_wait
        self._ends: list[float] = []  # of requests, not long before the last batch ended
        self._rate = 0.0  # tokens per second
        config = extractor.config
        self._fixed = config.max_new_tokens + len(config.codec().system_prompt)

    def submit(self, texts: Sequence[str | Refusal], min_score: float = 0.0) -> Job:
        """Queue `texts`; those that are `Refusal`s stay so. Raises `QueueFull` if there is no room."""
        windows = [self.extractor.windows(text) if isinstance(text, str) else [] for text in texts]
        job = Job(texts, windows, min_score)
        size = sum(map(self._size, job.parts))
        with self._queue:
            full = (
                (self.tokens, self.limits.max_waiting, "tokens")
                if self.tokens + size > self.limits.max_waiting
                else None
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

    def cancel(self, job: Job) -> None:
        """Drop what is still queued of `job`, and stop what is being read of it."""
        job.cancelled = True
        self._drop(job, None)

    def _drop(self, job: Job, text: int | None) -> None:
        """Drop what is still queued of `job`, or only of its text number `text`."""
        with self._queue:
            kept = deque(part for part in job.parts if text not in (None, part.number))
            self.tokens -= sum(map(self._size, job.parts)) - sum(map(self._size, kept))
            if job.parts and not kept:
                self.waiting.remove(job)
            job.parts = kept

    async def run(self) -> None:
        """Read what is queued, until cancelled; what has begun is finished."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_jobs()
            await self._loop.run_in_executor(self._thread, self._read_all)

    def close(self) -> None:
        """Stop the model's thread after what it has begun."""
        self._closed = True
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

    def _take_parts(self, most: int) -> list[Part]:
        """Take a part of each waiting job in turn from the queue, up to `most` tokens, but at least one."""
        parts: list[Part] = []
        tokens = 0
        with self._queue:
            while self.waiting and not self._closed:
                job = self.waiting[0]
                size = self._size(job.parts[0])
                if parts and tokens + size > most:
                    break
                tokens += size
                parts.append(job.parts.popleft())
                self.waiting.popleft()
                if job.parts:
                    self.waiting.append(job)
            self.tokens -= tokens
        return parts

    def _read_all(self) -> None:
        """Read what is queued and what arrives meanwhile. Runs in the model's thread, as all below but `_end`."""
        self._read(self._ask(self.limits.batch_tokens), self._ask)

    def _ask(self, most: int) -> list[Part]:
        """The parts of a new batch, up to `most` tokens."""
        batch = Batch(self._take_parts(most))
        for part in batch.parts:
            part.answer = partial(self._answer, batch, part)
        return list(batch.parts)

    def _answer(self, batch: Batch, part: Part, found: Decoded | Refusal | None, tokens: int) -> None:
        part.answered = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._end, batch, part, found, tokens)

    def _read(self, parts: list[Part], more: Callable[[int], list[Part]] = lambda most: []) -> None:
        """Read `parts`, and what there is `more`. If the model fails, those without an answer are read again, by
        halves, until the culprit is alone."""
        given, left = [parts], parts

        def feed(tokens: int) -> list[Part]:
            nonlocal left
            if given:
                new = given.pop()
            else:
                new = more(tokens)
                left = [*(part for part in left if not part.answered), *new]
            for part in new:
                if fault := self.extractor.overlong([part.text]):
                    part.answer(Refusal(fault[0]), 0)
            return [part for part in new if not part.answered]

        reason = "the model gave no answer"
        try:
            self.extractor.serve(feed, sampling=self.sampling, batch_tokens=self.limits.batch_tokens)
        except EngineDown as error:
            log.error("%s", error)
            for part in left:
                if not part.answered:
                    part.answer(Refusal("what runs the model does not answer; try again later", status=503), 0)
            return
        except Exception as error:  # what it says is the operator's: it may name addresses and files
            reason = f"the model failed on this text ({type(error).__name__}); see the server's log"
            unread = [len(part.text) for part in left if not part.answered]
            if len(unread) <= 1:
                log.exception("The model failed on a text of %d characters.", sum(unread))
        left = [part for part in left if not part.answered]
        if len(left) == 1:
            left[0].answer(Refusal(reason, status=500), 0)
        elif left:
            half = len(left) // 2
            self._read(left[:half])
            self._read(left[half:])

    def _end(self, batch: Batch, part: Part, found: Decoded | Refusal | None, tokens: int) -> None:
        """Record the answer of `part` of `batch`; None if it was cancelled. Runs in the event loop."""
        batch.left -= 1
        if found is not None:
            found = _check(found)
            batch.read.append(part)
            batch.tokens += tokens
            part.job.take(part, found)
            if part.job.done:
                self._ends.append(time.perf_counter())
            if isinstance(found, Refusal):
                self._drop(part.job, part.number)
        if batch.left or not batch.read:
            return
        now = time.perf_counter()
        seconds, busy = now - batch.started, now - max(batch.started, self._ended)
        jobs = list(dict.fromkeys(part.job for part in batch.read))
        size = sum(map(self._size, batch.read))
        self._patience = max(self.limits.max_wait, WAITING_SHARE * seconds)
        self._ends = [end for end in self._ends if now - end <= self._patience]
        self._expected = len(self.waiting) + len(self._ends)
        self._rate += (size / busy - self._rate) * (0.2 if self._rate else 1.0)
        self._ended = now
        self.on_batch(len(batch.read), len(jobs), sum(len(part.text) for part in batch.read), batch.tokens, seconds)


def _check(found: Decoded | Refusal) -> Decoded | Refusal:
    scores = [] if isinstance(found, Refusal) else [entity.score for entity in found.entities]
    if all(score is None or math.isfinite(score) for score in scores):
        return found
    return Refusal("the model's scores are not finite numbers; its weights may be damaged", status=500)
