"""Write a model that transformers can run without this package.

In float32 the weights are those that were scored, and the scores are copied with them.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", help="an output_dir, a checkpoint in it, or a Hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write; it must not exist yet, or be empty")
    parser.add_argument(
        "--merge",
        action="store_true",
        required=True,
        help="required: an adapter is merged into its base; full weights are written as they are",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default: float32, as scored"
    )


def run(options: Namespace, _: list[str]) -> None:
    from ..hub.push import export

    export(options.folder, options.out, dtype=options.dtype)
    print(f"exported: {options.out}")
