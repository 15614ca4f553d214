"""`qwen-ner serve`: a trained model behind the API, until it is told to stop.

In: a folder or Hub id, an address, limits. Out: a server that first answers what it has accepted when it is told to
stop. Knows nothing of how requests are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ..entities import NerError
from ..inference.extractor import Extractor
from .app import Service, create_app
from .http_io import SLOW_SECONDS
from .schemas import Limits

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "QWEN_NER_TOKEN"

EXAMPLES = ("三星WCG2011北京赛区魔兽争霸3最终名次", "店长李明说周末去西湖", "王芳在深圳的苹果店买了《红楼梦》")
"""Sentences that the page offers."""

CONNECTIONS = 1024
"""Beyond so many at a time a connection is answered 503."""


def serve(
    model: str,
    *,
    revision: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    limits: Limits | None = None,
) -> None:
    """Answer at `host`:`port` with `model` until SIGTERM or Ctrl-C. Port 0 takes a free one.

    What was accepted by then is answered; what comes later gets 503. The token is the content of `token_file`, or
    QWEN_NER_TOKEN. Raises `NerError` where the model cannot be loaded, the address not be had or the token not be read;
    `KeyboardInterrupt` after Ctrl-C.
    """
    limits = limits or Limits()
    token = read_token(token_file)
    listening = bound(host, port)
    extractor = Extractor.from_pretrained(model, revision=revision)
    extractor.extract(["北京"])  # the first call of anything is slow
    named = Path(model).resolve().name if Path(model).is_dir() else f"{model}@{revision}" if revision else model
    app = create_app(
        extractor,
        name=named,
        scores=scores(model, revision),
        limits=limits,
        token=token,
        examples=EXAMPLES,
    )
    if token is None and not is_loopback(host):
        log.warning(
            "Everyone who reaches %s can use this server. Set %s or give --token-file, or leave --host out.",
            host,
            TOKEN_VARIABLE,
        )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=5,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = DrainingServer(config, app.state.service, named)
    server.run(sockets=[listening])
    if server.told == signal.SIGINT:
        raise KeyboardInterrupt


class DrainingServer(uvicorn.Server):
    """uvicorn's, but one that goes on listening while it answers what it has accepted: what comes then hears 503, and
    `/readyz` says so at once. A second signal ends it where it stands."""

    def __init__(self, config: uvicorn.Config, service: Service, name: str) -> None:
        super().__init__(config)
        self.service, self.name = service, name
        self.told: int | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            log.info("%s answers at http://%s:%d", self.name, f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.told is not None or self.loop is None:
            self.should_exit = self.force_exit = True
            return
        self.told = sig
        self.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        log.info("Stopping, once %d requests are answered.", self.service.open)
        self.draining = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.service.drained(), self.service.limits.deadline + SLOW_SECONDS)
        self.should_exit = True


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address, which does not listen yet. Raises `NerError` where it cannot be had."""
    if not 0 <= port < 2**16:  # getaddrinfo would take the rest of a division
        raise NerError(f"--port: {port} is no port; take one below 65536")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NerError(f"{host}:{port} cannot be listened at ({reason}); choose another --host or --port") from error
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(file: Path | None) -> str | None:
    """The token that is asked for, None for none: of `file`, or of the environment."""
    place = TOKEN_VARIABLE if file is None else str(file)
    try:
        value = os.environ.get(TOKEN_VARIABLE) if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NerError(f"{place}: no token can be read there ({error}); write it into that file") from error
    if value is None:
        return None
    token = value.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NerError(f"{place}: a token is printable ASCII without spaces; make one: openssl rand -hex 32")
    return token


def scores(model: str, revision: str | None = None) -> dict[str, Any] | None:
    """What the model's card has of metrics.json; None where it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    path = Path(model) / "metrics.json"
    try:
        if not Path(model).is_dir():
            path = Path(hf_hub_download(model, "metrics.json", revision=revision))
        values = json.loads(path.read_text(encoding="utf-8"))
        rates = {key: round(values["metrics"][key], 4) for key in ("f1", "span_f1", "macro_f1")}
        contract = {key: values["contract"][key] for key in ("data", "split", "rows", "decoding")}
        return {**rates, **contract, "data": Path(contract["data"]).name}  # where the data lie is nobody's business
    except (OSError, HfHubHTTPError, ValueError, KeyError, TypeError) as error:
        log.info("No scores of %s are known (%s).", model, error)
        return None
