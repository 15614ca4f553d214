"""Read one request and write its answer within the limits, while the client is there.

In: a request, a `jobs.Job`. Out: bytes; an ASGI response. Knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import time
from collections.abc import AsyncGenerator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from .batcher import Batcher
from .jobs import Job
from .limits import Limits
from .schemas import ExtractRequest, Refusal, to_json, to_response, to_result

SLOW_SECONDS = 30.0
"""How long a client may take to send the body of a request; `connection` waits as long for it to receive an answer."""


_HOST = re.compile(r"(?:\[(?P<address>[\da-f:.]+)\]|(?P<name>[\w.-]+))(?::\d*)?", re.IGNORECASE | re.ASCII)


def read_host(value: str) -> str:
    """The host of a Host header in lower case, without its port; "" if it is malformed.

    >>> read_host("[::1]:8000"), read_host("LocalHost"), read_host("a@b")
    ('::1', 'localhost', '')
    """
    found = _HOST.fullmatch(value.strip())
    return (found["address"] or found["name"].rstrip(".")).lower() if found else ""


def is_local(host: str) -> bool:
    """Whether `host`, a name or an address, always means the machine of whoever asks for it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def read_body(request: Request, limits: Limits) -> bytes:
    """The JSON body of a request. Raises `HTTPException` (408, 413, 415), or `ClientDisconnect`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"content type {kind or 'missing'}; send application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body is compressed; send it uncompressed")
    body = bytearray()

    async def collect() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > limits.body:
                return

    close = {"connection": "close"}  # the rest of the body is not read
    try:
        await asyncio.wait_for(collect(), SLOW_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {SLOW_SECONDS:g} s", close) from None
    if len(body) > limits.body:
        raise HTTPException(413, f"the body exceeds the limit of {limits.body:,} bytes; split the request", close)
    return bytes(body)


async def updates(batcher: Batcher, job: Job, request: Request, started: float) -> AsyncGenerator[None, None]:
    """Yield at once, and whenever more of `job` is done, until all of it is.

    Raises `ClientDisconnect` when the client leaves, and `HTTPException` (504) at the deadline, counted from `started`.
    However it ends, what is left of the job is cancelled.
    """
    deadline = batcher.limits.deadline
    changed = gone = asyncio.ensure_future(_wait_for_disconnect(request.receive))
    try:
        yield
        while not job.done:
            changed = asyncio.ensure_future(job.changed())
            left = max(0.0, started + deadline - time.perf_counter())
            done, _ = await asyncio.wait({changed, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if changed not in done:
                if gone in done:
                    raise ClientDisconnect()
                raise HTTPException(
                    504, f"not finished within {deadline:g} s; send less text per request, or try again later"
                )
            yield
    finally:  # also where the server cancels this amid `wait`
        gone.cancel()
        changed.cancel()
        batcher.cancel(job)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def respond(job: Job, query: ExtractRequest, changes: AsyncGenerator[None, None]) -> Response:
    """The answer to `query` once `job` is done. Raises `HTTPException` (422, 500, 503) if the model read none of the
    texts that it was given, so that a client who tries again does not keep their errors."""
    async with contextlib.aclosing(changes):
        async for _ in changes:
            pass
    outcomes = [outcome for outcome in job.outcomes if outcome is not None]
    faults = [outcome for outcome in outcomes if isinstance(outcome, Refusal) and outcome.status]
    if faults and not job.has_read:
        status = faults[0].status or 500
        raise HTTPException(status, faults[0].reason, {"retry-after": "1"} if status == 503 else None)
    return Response(to_json(to_response(outcomes, query)), media_type="application/json")


async def stream_lines(
    job: Job, query: ExtractRequest, changes: AsyncGenerator[None, None]
) -> AsyncGenerator[bytes, None]:
    """The answer to `query` as lines of JSON, one per text, in order, as soon as they are known.

    At the deadline the remaining texts get lines with an error.
    """
    sent = 0

    def new_lines() -> bytes:
        nonlocal sent
        lines = []
        while sent < len(job.outcomes) and (outcome := job.outcomes[sent]) is not None:
            lines.append({"index": sent} | to_result(outcome, query))
            sent += 1
        if query.progress and sent < len(job.outcomes):
            lines.append({"progress": {"read": job.read, "of": job.windows}})
        return b"".join(to_json(line) + b"\n" for line in lines)

    try:
        async with contextlib.aclosing(changes):
            async for _ in changes:
                if lines := new_lines():
                    yield lines
    except HTTPException as late:
        job.give_up(late.detail)
        yield new_lines()
    except ClientDisconnect:  # nobody receives the rest
        return
