"""One client's connection, and how long it may keep the server waiting.

In: the connections of a uvicorn server. Out: the same; a client that neither sends its request nor reads its answer
loses its connection. Knows nothing of what is asked and answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .http_io import SLOW_SECONDS

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""How long a client may take to send the head of a request."""

YOUNG_SECONDS = 1.0
"""How long a connection keeps its place: its request may have arrived, and not been read yet."""


def allow_files(wanted: int) -> int:
    """Let this process open `wanted` files, or as many as the system allows it; returns their number.

    The usual limit is 1,024, and each connection is an open file.
    """
    if os.name != "posix":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if files < wanted:
        remedy = f"raise the hard limit to {wanted} (systemd: LimitNOFILE, docker run: --ulimit nofile)"
        log.warning("Only %d files may be open here, so %d requests may wait; %s.", files, files // 4, remedy)
    return files


class Connection(H11Protocol):
    """uvicorn's connection with deadlines, which uvicorn has only for connections between two requests.

    uvicorn's `limit_concurrency` would refuse every request, a probe too, while enough clients do nothing. Here the
    number of requests is limited by the queue, and beyond `most` connections a new one takes the place of those whose
    clients have kept the server waiting longest.
    """

    most: ClassVar[int] = 2048

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.since, self.left = time.monotonic(), 0
        super().connection_made(transport)
        if (excess := len(self.connections) - self.most) > 0:
            youth = YOUNG_SECONDS if excess < self.most // 2 else 0.0  # files must be left, or nobody is accepted
            others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
            old = [one for one in others if self.since - one.since >= youth and one.waits_for_client]
            for one in sorted(old, key=lambda one: one.since)[: excess + self.most // 16]:  # finding them takes a while
                one.abort()

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # a malformed body of a request that has its answer; uvicorn would answer again
            self.abort()

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        super().on_response_complete()

    @property
    def answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client has not taken."""
        return self.transport.get_write_buffer_size()

    @property
    def waits_for_client(self) -> bool:
        return self.answered or self.cycle.more_body or self.unsent > 0

    def end_if_stalled(self) -> None:
        """Call once a second. Ends a connection that has waited too long for a head, or to get rid of an answer."""
        now, unsent = time.monotonic(), self.unsent
        if unsent != self.left:
            self.left, self.since = unsent, now
        limit = SLOW_SECONDS if unsent else HEAD_SECONDS
        if (unsent or self.answered) and now - self.since > limit:
            self.abort()

    def abort(self) -> None:
        """End it now, with what is not sent."""
        self.connections.discard(self)
        self.transport.abort()
