"""One request's body as it is sent, and its answer as it is written: within limits, deadlines, and while the client is
there.

In: a request, a `batching.Job`. Out: bytes; an ASGI response. Knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .batcher import Batcher, Job
from .schemas import Asked, Fault, Limits, answer, result, written

LINES_TYPE = "application/x-ndjson"

SLOW_SECONDS = 30.0
"""How long a client may take to send a request's body, and to take a piece of the answer."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request that says it is JSON. Raises `Fault`: 408, 413, 415, and what Starlette raises where the
    client has left."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Fault(415, f"the content type is {kind or 'not given'}; send application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Fault(415, "the body is compressed; send it as it is")
    declared = request.headers.get("content-length", "")
    body = bytearray()

    async def collect() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > limits.body:
                return

    if not (declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.body):
        try:
            await asyncio.wait_for(collect(), SLOW_SECONDS)
        except asyncio.TimeoutError:
            message = f"the body did not come within {SLOW_SECONDS:g} s"
            raise Fault(408, message, connection="close") from None
        if len(body) <= limits.body:
            return bytes(body)
    message = f"the body is longer than {limits.body:,} bytes, the most of a request: send several"
    raise Fault(413, message, connection="close")


class Late(Exception):
    """The deadline of a request has passed before all of it was read."""


async def steps(job: Job, receive: Receive, until: float) -> AsyncGenerator[None, None]:
    """Once at first, and each time that more of `job` has been read, until it is done.

    Raises `Late` at `until` (by `time.perf_counter`), and `ClientDisconnect` once the client has left.
    """
    gone = asyncio.ensure_future(_gone(receive))
    try:
        yield
        while not job.done:
            changed = asyncio.ensure_future(job.changed())
            left = max(0.0, until - time.perf_counter())
            done, _ = await asyncio.wait({changed, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if changed not in done:
                changed.cancel()
                raise ClientDisconnect() if gone in done else Late()
            yield
    finally:
        gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def whole(batcher: Batcher, job: Job, asked: Asked, limits: Limits, until: float, receive: Receive) -> Response:
    """The answer to `asked`, once `job` is done; a job whose client leaves or whose deadline passes is given up."""
    try:
        async with aclosing(steps(job, receive, until)) as more:
            async for _ in more:
                pass
    except Late:
        raise Fault(504, late(limits)) from None
    finally:
        batcher.cancel(job)
    outcomes = [outcome for outcome in job.outcomes if outcome is not None]
    return Response(written(answer(outcomes, asked)), media_type="application/json")


def late(limits: Limits) -> str:
    return f"not read within {limits.deadline:g} s, the most that a request may take: send less at a time"


class Lines(Response):
    """The answer to `asked` as lines of JSON, a text each, in order, as soon as they are read.

    Beyond the deadline the texts that are left get lines with an error. A job whose client leaves is given up.
    """

    media_type = LINES_TYPE

    def __init__(self, batcher: Batcher, job: Job, asked: Asked, limits: Limits, until: float) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.batcher, self.job, self.asked, self.limits, self.until = batcher, job, asked, limits, until
        self.sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._until_done(receive, send)
            await self._send(send, b"", more=False)
        except ClientDisconnect:
            return
        finally:
            self.batcher.cancel(self.job)

    async def _until_done(self, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(steps(self.job, receive, self.until)) as more:
                async for _ in more:
                    await self._send(send, self._lines())
        except Late:
            self.job.give_up(late(self.limits))
            await self._send(send, self._lines())

    def _lines(self) -> bytes:
        """What can be told now and has not been told yet."""
        lines = []
        while self.sent < len(self.job.outcomes) and (outcome := self.job.outcomes[self.sent]) is not None:
            lines.append({"index": self.sent} | result(outcome, self.asked))
            self.sent += 1
        if self.asked.progress and self.sent < len(self.job.outcomes):
            lines.append({"progress": {"read": self.job.read, "of": self.job.windows}})
        return b"".join(written(line) + b"\n" for line in lines)

    async def _send(self, send: Send, body: bytes, more: bool = True) -> None:
        if body or not more:
            message = {"type": "http.response.body", "body": body, "more_body": more}
            try:
                await asyncio.wait_for(send(message), SLOW_SECONDS)
            except asyncio.TimeoutError:
                raise ClientDisconnect() from None
