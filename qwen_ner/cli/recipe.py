"""Explain the keys of a recipe.

Prints each key with its type, its default and what it does. Every key can be set in the recipe, or as `--key value` on
the command line of train, doctor and folds.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("keys", nargs="*", metavar="KEY", help="explain these keys only; default: all")


def run(options: Namespace, _: list[str]) -> None:
    from ..training.keys import explain

    print(explain(options.keys))
