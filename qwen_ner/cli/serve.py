"""Serve a model over HTTP, with a page to try it.

Endpoints: POST /v1/extract, GET /v1/model, /healthz, /readyz, /metrics. On SIGTERM the server answers what it has
accepted, then exits. If QWEN_NER_TOKEN or --token-file is set, clients must send that token.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import fields
from pathlib import Path

from ..files import install_line
from ..serving.limits import Limits
from .options import add_dtype, add_engine, add_model, add_sampling, pick


def add_arguments(parser: ArgumentParser) -> None:
    add_model(parser)
    add_engine(parser)
    add_dtype(parser)
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, reachable from this machine only")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument(
        "--allowed-host",
        dest="allowed_hosts",
        action="append",
        default=[],
        metavar="NAME",
        help="host name that requests may use beside localhost, can be given again; others get HTTP 421; "
        "default: the name in --host if that is this machine only, else any",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the token clients must send")
    add_sampling(parser)
    for limit in fields(Limits):
        parser.add_argument(
            f"--{limit.name.replace('_', '-')}",
            type=type(limit.default),
            default=limit.default,
            metavar="N",
            help=f"{limit.metadata['meaning']}; default: {limit.default}",
        )


def run(options: Namespace, _: list[str]) -> None:
    from ..entities import NerError
    from ..inference.sampling import Sampling

    sampling = Sampling(options.samples, options.temperature, options.top_p)
    try:
        from ..serving.run import serve
    except ImportError as error:
        raise NerError(f"serving needs {error.name}, which is not installed", remedy=install_line("serve")) from error
    limits = Limits(**pick(options, *(limit.name for limit in fields(Limits))))
    given = pick(options, "revision", "dtype", "host", "port", "token_file", "allowed_hosts")
    serve(options.model, backend=options.engine, limits=limits, sampling=sampling, **given)
