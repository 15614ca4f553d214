"""Let concurrent requests share one model.

In: an Extractor and the texts of each request. Out: what was decoded for each text, or why it could not be read, as
soon as it is known. A text that fails or a request that is cancelled does not affect the others. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock

from ..codec import Decoded
from ..inference.backends.base import EngineDown
from ..inference.extractor import Extractor
from ..inference.sampling import GREEDY, Sampling
from .jobs import Job, Part
from .limits import Limits
from .metrics import Monitor
from .schemas import Refusal

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue has no room for a request."""


class Batcher:
    """One model and the requests that wait for it. Its methods belong to one event loop, the model to one thread.

    The model takes windows from all waiting requests in turn, as many as `batch_tokens` have room for, and goes on
    doing so while it reads others, so that a long document does not delay a sentence. No more than `max_waiting` tokens
    and `max_requests` may wait, except for a request that finds the queue empty. Both limits of tokens count
    prompt, answer and each character as a token, for each of the answers that `sampling` draws.
    """

    def __init__(self, extractor: Extractor, limits: Limits, monitor: Monitor, sampling: Sampling = GREEDY) -> None:
        self.extractor, self.limits, self.monitor, self.sampling = extractor, limits, monitor, sampling
        self.tokens = 0  # in the queue
        self.waiting: deque[Job] = deque()
        monitor.watch(lambda: self.tokens, lambda: len(self.waiting))
        self._queue = Lock()  # of `waiting`, `tokens` and the parts of jobs, which the model's thread takes from
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._closed = False
        self.broken = False  # the model failed on every text, the last time that it did: of a CUDA error, say
        self._arrived = asyncio.Event()
        config = extractor.config
        self._fixed = config.max_new_tokens + len(config.codec().system_prompt)

    def submit(self, texts: Sequence[str | Refusal], min_score: float | None = None) -> Job:
        """Queue `texts`; those that are `Refusal`s stay so. Raises `QueueFull` if there is no room."""
        windows = [self.extractor.windows(text) if isinstance(text, str) else [] for text in texts]
        job = Job(texts, windows, self.sampling.floor(min_score))
        size, full = sum(map(self._size, job.parts)), ""
        with self._queue:
            if self.tokens + size > self.limits.max_waiting:
                full = f"{self.tokens:,} tokens, limit {self.limits.max_waiting:,}"
            if len(self.waiting) >= self.limits.max_requests:
                full = f"{self.limits.max_requests:,} requests"
            if full and self.tokens and job.parts:
                raise QueueFull(f"the queue is full ({full}); try again in some seconds")
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
            while not self.waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._loop.run_in_executor(self._thread, self._read, [], self._ask)

    def close(self) -> None:
        """Stop the model's thread after what it has begun."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _size(self, part: Part) -> int:
        """An upper estimate of the tokens of `part` with prompt and answers, one per character."""
        return self.sampling.samples * (self._fixed + part.window.end - part.window.start)

    def _ask(self, most: int) -> list[Part]:
        """Take a part of each waiting job in turn from the queue, up to `most` tokens, but at least one.

        Runs in the model's thread, as all below but `_end`.
        """
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
        for part in parts:
            part.answer = partial(self._answer, part)
        if parts:
            self.monitor.batch_windows.observe(len(parts))
            self.monitor.batch_requests.observe(len({part.job for part in parts}))
        return parts

    def _answer(self, part: Part, found: Decoded | Refusal | None, tokens: int) -> None:
        part.answered = True
        if isinstance(found, Decoded):
            self.broken = False
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._end, part, found, tokens)

    def _read(self, parts: list[Part], more: Callable[[int], list[Part]] = lambda most: []) -> None:
        """Read `parts`, and what there is `more`. If the model fails, those without an answer are read again, by
        halves, until the culprit is alone."""
        given, left = [parts] if parts else [], parts
        failure: Exception | None = None

        def feed(tokens: int) -> list[Part]:
            nonlocal left
            new = given.pop() if given else more(tokens)
            left = [part for part in dict.fromkeys([*left, *new]) if not part.answered]
            for part in new:
                if fault := self.extractor.overlong(part.text):
                    part.answer(Refusal(fault), 0)
            return [part for part in new if not part.answered]

        try:
            self.extractor.serve(feed, sampling=self.sampling, batch_tokens=self.limits.batch_tokens)
        except Exception as error:  # what it says is the operator's: it may name addresses and files
            failure = error
        left = [part for part in left if not part.answered]
        if isinstance(failure, EngineDown):
            log.error("%s", failure)
            refusal = Refusal("what runs the model does not answer; try again later", status=503)
        elif len(left) > 1:
            half = len(left) // 2
            self._read(left[:half])
            self._read(left[half:])
            return
        else:
            reason = "the model gave no answer"
            if failure:
                reason = f"the model failed on this text ({type(failure).__name__}); see the server's log"
                length = sum(len(part.text) for part in left)
                log.error("The model failed on a text of %d characters.", length, exc_info=failure)
                self.broken = not self._works()
            refusal = Refusal(reason, status=500)
        for part in left:
            part.answer(refusal, 0)

    def _works(self) -> bool:
        """Whether the model reads the shortest text there is."""
        try:
            self.extractor.read(["。"], batch_tokens=self.limits.batch_tokens)
        except Exception as error:
            log.critical("The model reads no text any more (%s); restart the server.", type(error).__name__)
        else:
            return True
        return False

    def _end(self, part: Part, found: Decoded | Refusal | None, tokens: int) -> None:
        """Record the answer of `part`; None if it was cancelled. Runs in the event loop."""
        if found is None:
            return
        if isinstance(found, Decoded) and not all(math.isfinite(entity.score or 0) for entity in found.entities):
            found = Refusal("the model's scores are not finite numbers; its weights may be damaged", status=500)
        self.monitor.characters.inc(len(part.text))
        self.monitor.tokens.inc(tokens)
        part.job.take(part, found)
        if isinstance(part.job.outcomes[part.number], Refusal):
            self._drop(part.job, part.number)
