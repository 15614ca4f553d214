"""The API: HTTP around a `batching.Batcher`.

In: an Extractor, limits, a token. Out: a FastAPI app; each answer is what `Extractor.extract` finds. Knows nothing of
sockets, signals and the command line.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..inference.extractor import Extractor
from .batcher import Batcher, QueueFull
from .http_io import LINES_TYPE, Lines, read_body, whole
from .metrics import Monitor
from .openapi import EXTRACT, MODEL, PLAIN, request_body
from .page import Page, documentation, page
from .schemas import Fault, Limits, ModelInfo, read_request, written

log = logging.getLogger(__name__)

OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
"""Paths that need no token: they hold nothing of texts and of the model's answers."""

PROBES = {"/healthz", "/readyz", "/metrics"}
"""Paths that are answered while the server drains."""


class Service:
    """One model behind one app: its queue, what is counted, and whether it still takes requests."""

    def __init__(self, extractor: Extractor, limits: Limits, token: str | None) -> None:
        self.limits, self.token, self.monitor = limits, token, Monitor()
        self.batcher = Batcher(
            extractor,
            batch_tokens=limits.batch_tokens,
            max_wait=limits.max_wait,
            max_waiting=limits.max_waiting,
            on_batch=self.monitor.batch,
        )
        self.monitor.watch(self.batcher)
        self.reading: asyncio.Task[None] | None = None
        self.open = 0  # requests that were accepted and are not answered yet
        self.draining = False

    @property
    def alive(self) -> bool:
        return self.reading is not None and not self.reading.done()

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.reading = asyncio.create_task(self.batcher.run())
        self.reading.add_done_callback(_say_why)
        yield
        self.reading.cancel()
        self.batcher.close()

    async def drained(self) -> None:
        """Take no more requests, and return once all that were accepted are answered."""
        self.draining = True
        while self.open:
            await asyncio.sleep(0.02)


def _say_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.critical("Nothing more is read; restart the server.", exc_info=error)


class Gate:
    """Before everything else: the token, the refusal of what comes while the server drains, and the counting."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service, started, status = self.service, time.perf_counter(), 499

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if service.draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        probe = scope["path"] in PROBES
        service.open += not probe
        try:
            if service.draining and not probe:
                fault = Fault(503, "the server is stopping; ask again in a moment", retry_after="1")
                await failure(fault)(scope, receive, counted)
            elif service.token and scope["path"] not in OPEN and not _holds(scope, service.token):
                fault = Fault(401, "a token is needed: Authorization: Bearer TOKEN", www_authenticate="Bearer")
                await failure(fault)(scope, receive, counted)
            else:
                await self.app(scope, receive, counted)
        finally:
            service.open -= not probe
            route = getattr(scope.get("route"), "path", "other")
            service.monitor.request(route, status, time.perf_counter() - started)


def _holds(scope: Scope, token: str) -> bool:
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, value = given.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(value.strip(), token.encode())


async def _failed(request: Request, error: Exception) -> Response:
    """The answer to a request that ended in `error`."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nobody hears it
    if isinstance(error, HTTPException):
        return failure(Fault(error.status_code, str(error.detail), **(error.headers or {})))
    if isinstance(error, Fault):
        return failure(error)
    return failure(Fault(500, "the server failed; its log says more"))


def failure(fault: Fault) -> Response:
    return Response(written({"error": fault.message}), fault.status, fault.headers, "application/json")


def create_app(
    extractor: Extractor,
    *,
    name: str = "model",
    scores: dict[str, Any] | None = None,
    limits: Limits | None = None,
    token: str | None = None,
    examples: Sequence[str] = (),
) -> FastAPI:
    """The app that answers with `extractor`, which it has for itself; its `Service` is `app.state.service`.

    `name` and `scores` are what `/v1/model` says of the model, `examples` sentences that the page offers. With a
    `token` only those are answered who bring it.
    """
    limits = limits or Limits()
    service = Service(extractor, limits, token)
    config = extractor.config
    app = FastAPI(
        title="qwen_ner",
        version=version("qwen_ner"),
        description="Named entities of texts, with character offsets and confidences.",
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=service.lifespan,
    )
    app.state.service = service
    app.add_middleware(Gate, service=service)
    for kind in (Fault, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _failed)

    form = request_body(limits, config.labels.names)

    @app.post("/v1/extract", response_class=Response, responses=EXTRACT, openapi_extra=form)
    async def extract(request: Request) -> Response:
        """The entities of each text, in order. With `Accept: application/x-ndjson` a line a text, as they are read."""
        until = time.perf_counter() + limits.deadline
        asked = read_request(await read_body(request, limits), limits, config.labels)
        try:
            job = service.batcher.submit(asked.texts, asked.min_score)
        except QueueFull as full:
            message = f"{service.batcher.tokens:,} tokens wait to be read, {limits.max_waiting:,} are held; {full}"
            raise Fault(429, message, retry_after=str(full.seconds)) from None
        if LINES_TYPE in request.headers.get("accept", ""):
            return Lines(service.batcher, job, asked, limits, until)
        return await whole(service.batcher, job, asked, limits, until, request.receive)

    @app.get("/v1/model", response_model=ModelInfo, responses=MODEL)
    async def model() -> ModelInfo:
        """Which model answers, with its labels and scores, and what a request may hold."""
        return ModelInfo(
            model=name,
            version=version("qwen_ner"),
            labels={label.name: label.description for label in config.labels},
            scores=scores,
            calibrated=bool(config.calibration and config.calibration.get("surfaces")),
            window=config.window,
            limits=asdict(limits) | {"body": limits.body},
        )

    @app.get("/healthz", response_class=Response, responses=PLAIN)
    async def healthz() -> Response:
        """200 as long as texts can be read at all; else the server is to be restarted."""
        return _plain(service.alive, "nothing is read any more")

    @app.get("/readyz", response_class=Response, responses=PLAIN)
    async def readyz() -> Response:
        """200 as long as requests are taken: 503 from the moment on that the server is told to stop."""
        return _plain(service.alive and not service.draining, "stopping")

    @app.get("/metrics", response_class=Response, responses=PLAIN)
    async def metrics() -> Response:
        """Requests, latencies, batch sizes, tokens and the queue, for Prometheus."""
        return Response(service.monitor.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    shown = page(
        name,
        {label.name: label.description for label in config.labels},
        version=version("qwen_ner"),
        scores=scores,
        characters=limits.max_characters,
        examples=examples,
    )

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return _html(shown)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _html(documentation(app.openapi()))

    return app


def _plain(well: bool, otherwise: str) -> Response:
    return Response("ok\n" if well else f"{otherwise}\n", 200 if well else 503, media_type="text/plain")


def _html(shown: Page) -> Response:
    headers = {
        "content-security-policy": shown.policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return Response(shown.html, headers=headers, media_type="text/html")
