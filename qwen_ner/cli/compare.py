"""Test whether one set of predictions is better than another.

Runs a paired bootstrap and a permutation test, and shows the rows that changed. A quoted pattern that matches several
predictions stands for runs over seeds, which are reported as mean ± standard deviation.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from .options import add_data, pick


def add_arguments(parser: ArgumentParser) -> None:
    for side in ("a", "b"):
        parser.add_argument(
            side, help="a predictions.jsonl, a folder that holds one, or a pattern that matches several"
        )
    add_data(parser, required=False, why="; needed if the files hold no gold entities")
    parser.set_defaults(split=None)  # dev, but only with data


def run(options: Namespace, _: list[str]) -> None:
    from ..inference.compare import compare

    print(compare(options.a, options.b, **pick(options, "data", "split", "data_dir")))
