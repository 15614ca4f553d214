"""Serve a model over HTTP, with a page to try it.

Endpoints: POST /v1/extract, GET /v1/model, /healthz, /readyz, /metrics. On SIGTERM the server answers what it has
accepted, then exits. If QWEN_NER_TOKEN or --token-file is set, clients must send that token.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .options import add_batch_tokens, add_model


def add_arguments(parser: ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, reachable from this machine only")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the token clients must send")
    add_batch_tokens(parser, "memory is short or latency too high", 16384, "16384")
    for flag, default, what in (
        ("--max-texts", 1000, "most texts in a request"),
        ("--max-characters", 100_000, "most characters in a request"),
        ("--max-waiting", 1_000_000, "queue limit in tokens; further requests get HTTP 429"),
        (
            "--max-wait",
            0.01,
            "seconds to wait for more requests after a batch of several, at least 1/50 of its time",
        ),
        ("--deadline", 120.0, "seconds after which a request gets HTTP 504"),
    ):
        what = f"{what}; default: {default}"
        parser.add_argument(flag, type=type(default), default=default, metavar="N", help=what)


def run(options: Namespace, _: list[str]) -> None:
    from ..entities import NerError

    try:
        from ..serving.run import serve
        from ..serving.schemas import Limits
    except ImportError as error:
        raise NerError(
            f"serving needs {error.name}, which is not installed", remedy='pip install "qwen_ner[serve]"'
        ) from error
    serve(
        options.model,
        revision=options.revision,
        host=options.host,
        port=options.port,
        token_file=options.token_file,
        limits=Limits(**{name: getattr(options, name) for name in Limits.__dataclass_fields__}),
    )
