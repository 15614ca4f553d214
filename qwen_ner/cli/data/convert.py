"""Convert annotated data to another format.

The format of the input is detected from its content and logged. If the output format cannot hold an entity or a text,
nothing is written and the error lists what would be lost.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..options import add_labels, add_repair, pick


def add_arguments(parser: ArgumentParser) -> None:
    from ...data.formats import registry
    from ...data.formats.foreign.tables import COLUMNS

    parser.epilog = f"{registry.describe()} {COLUMNS}"
    parser.add_argument("source", metavar="IN", help="a file, a folder of splits, cluener, sample, or a Hub id")
    parser.add_argument("target", metavar="OUT", help="the file to write: .jsonl, .json, .bio, .bmes, .parquet, …")
    parser.add_argument("--to", metavar="FORMAT", help="format of OUT, if its name does not tell")
    parser.add_argument("--split", help="which split of a folder or data set")
    add_labels(parser, "write")
    parser.add_argument("--lossy", action="store_true", help="leave out what the format of OUT cannot hold; list it")
    add_repair(parser)
    what = "apply these findings, which `qwen-ner audit --output FILE` wrote; delete the lines that you reject"
    parser.add_argument("--corrections", metavar="FILE", help=what)


def run(options: Namespace, _: list[str]) -> None:
    from ...data.convert import convert

    given = pick(options, "to", "split", "lossy", "repair", "corrections")
    convert(options.source, options.target, keep=options.labels, **given)
