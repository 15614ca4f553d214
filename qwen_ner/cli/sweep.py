"""Search over a recipe's keys, without a wandb account.

Checks a sweep file, the one that `wandb sweep` takes. With --local it also runs the search here, with Optuna. The same
command continues an interrupted sweep.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .options import pick


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("sweep", type=Path, help="a sweep file, such as recipes/sweep.yaml")
    parser.add_argument("--local", action="store_true", help="run the sweep here, without wandb")
    parser.add_argument("--trials", type=int, metavar="N", help="total number of trials; default: run_cap of the file")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="K", help="trials at a time, on the same devices; default: 1"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: outputs/ and the name of the file")


def run(options: Namespace, _: list[str]) -> None:
    from ..sweep.run import sweep

    sweep(options.sweep, **pick(options, "local", "trials", "jobs", "output"))
