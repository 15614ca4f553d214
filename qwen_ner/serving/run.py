"""`qwen-ner serve`: a trained model behind the API, until it is told to stop.

In: a folder or Hub id, an address, limits. Out: a server that, told to stop, first answers what it has accepted. Knows
nothing of how requests are answered.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ..entities import NerError
from ..inference.extractor import Extractor
from ..inference.hub_download import METRICS, local_folder
from ..inference.sampling import GREEDY, Sampling
from .app import Service, create_app
from .connection import Connection, allow_files
from .http_io import SLOW_SECONDS, is_local, read_host
from .limits import Limits
from .schemas import refuse_constant

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "QWEN_NER_TOKEN"

EXAMPLES = ("三星WCG2011北京赛区魔兽争霸3最终名次", "店长李明说周末去西湖", "王芳在深圳的苹果店买了《红楼梦》")
"""Sentences that the page offers."""

TOKEN_LENGTH = 16
"""Characters that a token must have at least."""


def serve(
    model: str,
    *,
    revision: str | None = None,
    backend: str = "torch",
    dtype: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    allowed_hosts: Sequence[str] = (),
    limits: Limits | None = None,
    sampling: Sampling = GREEDY,
) -> None:
    """Serve `model` at `host`:`port` until SIGTERM or Ctrl-C; port 0 takes a free one.

    `revision` and `backend` are those of `Extractor.from_pretrained`.

    Requests accepted by then are answered, later ones get HTTP 503. The token is read from `token_file` or the
    environment variable QWEN_NER_TOKEN. Requests must name localhost, `host` or one of `allowed_hosts`; if there are
    none of these and others than this machine can reach the server, any name will do. All answers are written as
    `sampling` says. Raises `NerError` if the model, the address, a name or the token cannot be used, or the backend
    cannot draw, and `KeyboardInterrupt` after Ctrl-C.
    """
    token = read_token(token_file)
    names = {_check_name(name) for name in allowed_hosts}
    limits = limits or Limits()
    # A request that waits holds a connection; as many have a place beside, and as many files again are for a burst.
    files = allow_files(4 * limits.max_requests)
    Connection.most, limits = files // 2, replace(limits, max_requests=min(limits.max_requests, files // 4))
    listener = open_socket(host, port)
    local = is_local(listener.getsockname()[0])
    hosts = {*names, host.lower()} if names or local else None
    folder = local_folder(model, revision)
    extractor = load(folder, backend, dtype, sampling)
    name = Path(model).resolve().name if Path(model).is_dir() else f"{model}@{revision}" if revision else model
    scores = read_scores(folder)
    given: dict[str, Any] = {"token": token, "hosts": hosts, "examples": EXAMPLES, "sampling": sampling}
    app = create_app(extractor, name=name, scores=scores, limits=limits, **given)
    if token is None and not local:
        advice = f"set {TOKEN_VARIABLE}, pass --token-file, or omit --host"
        log.warning("Anyone who can reach %s can use this server; %s.", host, advice)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        http=Connection,
        ws="none",
        backlog=64,  # asyncio accepts as many at once, several times before the first is closed
        timeout_graceful_shutdown=5,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # its warnings are a line for each malformed request
    server = DrainingServer(config, app.state.service, name)
    server.run(sockets=[listener])
    if server.forced and server.signal is not None:  # the model's thread would keep the process until its batch is read
        signal.signal(server.signal, signal.SIG_DFL)
        signal.raise_signal(server.signal)
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt


def load(folder: Path, backend: str, dtype: str, sampling: Sampling) -> Extractor:
    """The extractor of `folder`, after a first call, which is slow.

    A thread that computes keeps OpenMP's threads for itself until it ends. While two threads have their own, there are
    more of them than cores, and OpenMP has them sleep between operations, which costs a batch of few rows a fifth. So
    this is done by a thread that ends, and only the one that serves will have them.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="load") as thread:
        extractor = thread.submit(Extractor.from_pretrained, folder, backend=backend, dtype=dtype).result()
        thread.submit(extractor.extract, ["北京"], **asdict(sampling)).result()
    return extractor


class DrainingServer(uvicorn.Server):
    """A uvicorn server that, on a signal, keeps listening until it has answered what it has accepted: new requests get
    HTTP 503, and so does `/readyz`. A second signal ends it at once, without answers."""

    def __init__(self, config: uvicorn.Config, service: Service, name: str) -> None:
        super().__init__(config)
        self.service, self.name = service, name
        self.signal: int | None = None
        self.forced = False
        self.end = math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        listeners = [(listener, *listener.getsockname()[:2]) for listener in sockets or ()]
        try:
            await super().startup(sockets)
        except OSError as error:  # another server that was started with this one listens there now
            await self.lifespan.shutdown()
            raise cannot_listen(error, *listeners[0][1:]) from error
        for listener, host, port in listeners:
            listener.listen(1024)  # as many may wait in the system
            log.info("%s answers at http://%s:%d", self.name, f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.forced = self.signal is not None
        self.signal = sig

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: stop accepting requests after a signal, and exit once all answers are sent."""
        service = self.service
        connections = [one for one in self.server_state.connections if isinstance(one, Connection)]
        if counter % 10 == 0:
            for connection in connections:
                connection.end_if_stalled()
        if self.signal is not None and not service.draining:
            service.draining = True
            self.end = time.monotonic() + service.limits.deadline + SLOW_SECONDS
            log.info("Stopping; requests in progress: %d", service.open)
        if service.draining:
            late = self.forced or time.monotonic() > self.end
            self.should_exit = late or not (service.open or any(one.unsent for one in connections))
            if late:
                log.warning("Stopped; requests without an answer: %d", service.open)
                for connection in connections:
                    connection.abort()
        return await super().on_tick(counter)


def _check_name(name: str) -> str:
    host = read_host(f"[{name}]" if name.count(":") > 1 and "[" not in name else name)
    if not host or name.lower().rstrip(".") not in (host, f"[{host}]"):
        remedy = "give each name alone, in ASCII (xn--…), without wildcard, scheme, port and path"
        raise NerError("not a host name", value=name, place="--allowed-host", remedy=remedy)
    return host


def open_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the address, which does not listen yet. Raises `NerError` if there is none to be had."""
    if not 0 <= port < 2**16:  # getaddrinfo would take it modulo 65536
        raise NerError("the port is out of range (0–65535)", value=port, place="--port", remedy="choose another")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":  # on Windows it lets two servers listen at once
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        raise cannot_listen(error, host, port) from error
    return listener


def cannot_listen(error: Exception, host: str, port: int) -> NerError:
    reason = str(getattr(error, "strerror", None) or error).lower()
    return NerError(f"cannot listen ({reason})", place=f"{host}:{port}", remedy="choose another --host or --port")


def read_token(file: Path | None) -> str | None:
    """The token that clients must bring, from `file` or the environment; None if there is none."""
    place = TOKEN_VARIABLE if file is None else str(file)
    try:
        value = os.environ.get(TOKEN_VARIABLE) if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NerError(f"cannot read the token ({error})", place=place, remedy="write it to that file") from error
    if value is None:
        return None
    token = value.strip()
    if len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        what = f"the token must be {TOKEN_LENGTH} or more characters of printable ASCII, without spaces"
        raise NerError(what, place=place, remedy="make one with: openssl rand -hex 32")
    return token


def read_scores(folder: Path) -> dict[str, Any] | None:
    """The scores in the metrics.json of a trained folder, and on which data; None if it has none."""
    try:
        values = json.loads((folder / METRICS).read_text(encoding="utf-8"), parse_constant=refuse_constant)
        rates = {key: round(values["metrics"][key], 4) for key in ("f1", "span_f1", "macro_f1")}
        contract = {key: values["contract"][key] for key in ("data", "split", "rows", "decoding")}
        return {**rates, **contract, "data": Path(contract["data"]).name}  # the path of the data is private
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.info("%s has no scores (%s).", folder, error)
        return None
