"""Options that several commands share, so that they are spelled and explained alike.

In: the parser of a command. Out: the parser with more arguments. Knows nothing of what a command does with them.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path


def add_recipe(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="a YAML file; examples are in recipes/")


def add_data(parser: ArgumentParser, *, split: str | None = "dev", required: bool = True, why: str = "") -> None:
    """`--data`, `--data-dir` and, unless `split` is None, `--split`."""
    what = "cluener, sample, a Hub id, or a file or folder of annotated sentences"
    parser.add_argument("--data", required=required, help=what + why)
    if split:
        parser.add_argument("--split", default=split, help=f"default: {split}")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder or zip file that holds CLUENER")


def add_model(parser: ArgumentParser, *, file: bool = False) -> None:
    """The model, with its revision on the Hub; with `file` a file of predictions can stand in for it."""
    other = "a Hub id, or a file of predictions" if file else "or a Hub id"
    parser.add_argument("model", help=f"an output_dir, a checkpoint, {other}")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a model on the Hub")


def add_extraction(parser: ArgumentParser) -> None:
    parser.add_argument("--min-score", type=float, default=0.0, help="drop entities with a lower score; default: 0")
    parser.add_argument(
        "--thresholds",
        choices=("none", "auto"),
        default="none",
        help="auto: drop entities below the calibrated threshold of their label; default: none",
    )
    add_batch_tokens(parser, "memory is short", None, "16384, or on a GPU what fits into its memory")


def add_batch_tokens(parser: ArgumentParser, when: str, default: int | None, shown: str) -> None:
    what = f"tokens in a batch; lower it if {when}; default: {shown}"
    parser.add_argument("--batch-tokens", type=int, default=default, metavar="N", help=what)
