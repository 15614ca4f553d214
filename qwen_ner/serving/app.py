"""The HTTP API around a `batcher.Batcher`.

In: an Extractor, limits, a token. Out: a FastAPI app whose answers are those of `Extractor.extract`. Knows nothing of
sockets, signals and the command line.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..inference.extractor import Extractor
from ..inference.sampling import GREEDY, Sampling
from . import schemas
from .batcher import Batcher, QueueFull
from .http_io import is_local, read_body, read_host, respond, stream_lines, updates
from .limits import Limits
from .metrics import Monitor
from .page import render_page
from .schemas import LINES_TYPE, ExtractResponse, ModelInfo, read_request, to_json

log = logging.getLogger(__name__)

OPEN = {"", "docs", "healthz", "readyz", "openapi.json"}
"""First parts of paths that need no token: if there is one, they reveal nothing of the model and its answers."""

PROBES = {"/healthz", "/readyz", "/metrics"}
"""Paths that are answered while the server drains."""

DOCS_POLICY = b"default-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"
"""Swagger UI is loaded from this server, and may not load anything from elsewhere."""


class Service:
    """One model behind one app: its queue, its metrics, and whether it still accepts requests."""

    def __init__(
        self, extractor: Extractor, limits: Limits, token: str | None, hosts: Collection[str] | None, sampling: Sampling
    ) -> None:
        self.limits, self.token, self.hosts, self.monitor = limits, token, hosts, Monitor()
        self.batcher = Batcher(extractor, limits, self.monitor, sampling)
        self.reader: asyncio.Task[None] | None = None
        self.open = 0  # requests that were accepted and are not answered yet
        self.draining = False

    @property
    def alive(self) -> bool:
        return self.reader is not None and not self.reader.done() and not self.batcher.broken

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.reader = asyncio.create_task(self.batcher.run())
        self.reader.add_done_callback(_log_crash)
        yield
        self.reader.cancel()
        self.batcher.close()


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.critical("The batcher has crashed; restart the server.", exc_info=error)


class Gate:
    """Checks host and token, refuses requests while the server drains, answers HEAD as GET, and counts.

    It is outside all routes and handlers, and inside Starlette's ServerErrorMiddleware.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the HTTP server leaves out the body
            scope = {**scope, "method": "GET"}
        service, started, status = self.service, time.perf_counter(), 499
        probe, first = scope["path"] in PROBES, scope["path"].lstrip("/").partition("/")[0]

        async def count_and_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                close = [(b"connection", b"close")] if service.draining else []
                policy = [(b"content-security-policy", DOCS_POLICY)] if first == "docs" else []
                message["headers"] = [*message["headers"], *close, *policy]
            await send(message)

        service.open += not probe
        app = self._refusal(scope, probe, first) or self.app
        try:
            await app(scope, receive, count_and_send)
        except Exception:
            status = 500 if status == 499 else status  # Starlette's own middleware outside of this answers it
            raise
        finally:
            service.open -= not probe
            route = getattr(scope.get("route"), "path", "other")
            service.monitor.requests.labels(route, str(status)).inc()
            service.monitor.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope, probe: bool, first: str) -> Response | None:
        service, headers = self.service, Headers(scope=scope)
        if not scope["path"].startswith("/"):
            return fail(400, "the request's target is not a path, and this server is no proxy")
        # A page of another site can make its name lead to this machine (DNS rebinding), but then asks with that name.
        if service.hosts is not None and "host" in headers:
            host = read_host(headers["host"])
            if host not in service.hosts and not is_local(host):
                return fail(421, f"no host {host!r} here; ask localhost, or start the server with --allowed-host")
        if service.draining and not probe:
            return fail(503, "the server is shutting down; try again in a moment", {"retry-after": "1"})
        if service.token and first not in OPEN and not _is_token(headers.get("authorization", ""), service.token):
            return fail(401, "a token is required: Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})
        return None


def _is_token(header: str, token: str) -> bool:
    scheme, _, value = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), token.encode())


def fail(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json({"error": message}), status, headers, "application/json")


async def _respond_to_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nobody receives it
    if isinstance(error, HTTPException):
        return fail(error.status_code, error.detail, error.headers)
    return fail(500, "internal error; see the server's log")


def create_app(
    extractor: Extractor,
    *,
    name: str = "model",
    scores: dict[str, Any] | None = None,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    examples: Sequence[str] = (),
    sampling: Sampling = GREEDY,
) -> FastAPI:
    """An app that answers with `extractor`, which nothing else may use meanwhile; its `Service` is `app.state.service`.

    `/v1/model` reports `name` and `scores`; the page offers the sentences `examples`. If there is a `token`, requests
    must bring it, and what is open to all tells neither labels nor scores. `hosts` are the host names that requests may
    use beside those of this machine, in lower case; None allows any. `sampling` says how all answers are written.
    """
    service = Service(extractor, limits or Limits(), token, hosts, sampling)
    app = FastAPIOffline(
        title="qwen_ner",
        version=version("qwen_ner"),
        description="Extract named entities from texts, with character offsets and confidences.",
        redoc_url=None,
        static_url="/docs/static",
        lifespan=service.lifespan,
    )
    app.state.service = service
    app.add_middleware(Gate, service=service)
    for kind in (HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _respond_to_error)
    config, limits = extractor.config, service.limits
    info = ModelInfo(
        model=name,
        version=app.version,
        labels={label.name: label.description for label in config.labels},
        scores=scores,
        calibrated=bool(config.calibration and config.calibration.get("thresholds")),
        window=config.window,
        sampling={key: getattr(sampling, key) for key in ("samples", "temperature", "top_p")},
        limits=asdict(limits) | {"body": limits.body},
    )
    _add_api(app, service, info)
    _add_probes(app, service)
    shown = info.model_dump(include={"model", "version", "labels", "scores"})
    html, policy = render_page(
        **(shown | {"labels": {}, "scores": None} if token else shown),
        characters=limits.max_characters,
        texts=limits.max_texts,
        examples=list(examples),
    )

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return Response(html, headers=headers, media_type="text/html")

    return app


def _add_api(app: FastAPI, service: Service, info: ModelInfo) -> None:
    limits, labels = service.limits, service.batcher.extractor.config.labels
    # The gate checks the token; this adds it to the OpenAPI document.
    secured = [Depends(HTTPBearer(auto_error=False))] if service.token else []

    @app.post(
        "/v1/extract",
        response_model=ExtractResponse,
        responses={200: schemas.LINES, **schemas.ERRORS},
        dependencies=secured,
        openapi_extra=schemas.document_request(limits, () if service.token else labels.names),
    )
    async def extract(request: Request) -> Response:
        """The entities of each text, in order. With `Accept: application/x-ndjson`, texts are streamed as lines."""
        started = time.perf_counter()
        query = read_request(await read_body(request, limits), limits, labels)
        try:
            job = service.batcher.submit(query.texts, query.min_score)
        except QueueFull as full:
            raise HTTPException(429, str(full), {"retry-after": "5"}) from None
        service.monitor.texts.inc(len(query.texts))
        changes = updates(service.batcher, job, request, started)
        if LINES_TYPE in request.headers.get("accept", ""):
            return StreamingResponse(stream_lines(job, query, changes), media_type=LINES_TYPE)
        return await respond(job, query, changes)

    @app.get(
        "/v1/model", responses={status: schemas.ERRORS[status] for status in (401, 421, 503)}, dependencies=secured
    )
    async def model() -> ModelInfo:
        """The model, its labels and scores, and the limits of a request."""
        return info

    @app.get("/metrics", response_class=PlainTextResponse, dependencies=secured)
    async def metrics() -> Response:
        """Requests, latencies, batch sizes, tokens and the queue, for Prometheus."""
        return Response(
            generate_latest(service.monitor.registry), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _add_probes(app: FastAPI, service: Service) -> None:
    unhealthy: dict[int | str, dict[str, Any]] = {503: {"description": "Not alive, or not ready."}}

    @app.get("/healthz", response_class=PlainTextResponse, responses=unhealthy)
    async def healthz() -> Response:
        """Is the model alive? If not, restart the server."""
        return _say(service.alive, "the model has failed; restart the server")

    @app.get("/readyz", response_class=PlainTextResponse, responses=unhealthy)
    async def readyz() -> Response:
        """Whether the server accepts requests. It stops accepting them once it is told to shut down."""
        return _say(service.alive and not service.draining, "shutting down")


def _say(well: bool, otherwise: str) -> Response:
    return PlainTextResponse("ok\n" if well else f"{otherwise}\n", 200 if well else 503)
