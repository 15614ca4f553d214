"""Check a recipe, its data and this machine before training.

Prints one line for each check: ok, warn or fail, with what to do about it, or skip. The exit code is 1 if any check
fails.
Options of the form `--key value` override any key of the recipe; `qwen-ner recipe` lists them.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from .options import add_recipe


def add_arguments(parser: ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument(
        "--accelerate_config",
        type=Path,
        metavar="FILE",
        help="the file that `accelerate launch --config_file` will get, or the name of one that ships: ddp_4gpu, …",
    )


def run(options: Namespace, overrides: list[str]) -> None:
    from ..training.doctor.report import doctor

    sys.exit(1 if doctor(options.recipe, overrides, options.accelerate_config) else 0)
