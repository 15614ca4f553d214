"""Describe a data set.

Counts entities, lengths, what exceeds a length limit, duplicates, and surfaces with several labels.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..options import add_data, add_labels, add_repair, check_writable


def add_arguments(parser: ArgumentParser) -> None:
    add_data(parser, split=None)
    parser.add_argument(
        "--model", default="tiny", help="whose tokenizer counts tokens: a folder, a Hub id, or tiny; default: tiny"
    )
    add_labels(parser, "count")
    add_repair(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all counts to FILE")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw labels, lengths and limits to DIR")


def run(options: Namespace, _: list[str]) -> None:
    from ...codec import Codec
    from ...contract import NER_CONFIG_NAME, NerConfig
    from ...data.analysis.stats import statistics
    from ...data.analysis.stats_plots import draw
    from ...data.analysis.stats_table import table
    from ...data.datasets import labels_of, read_all
    from ...data.tokenize import token_counts
    from ...files import write_json
    from ...inference.loading import load_tokenizer
    from ...training.tiny import tiny_tokenizer

    if options.json:
        check_writable(options.json)
    splits = read_all(options.data, keep=options.labels, data_dir=options.data_dir, repair=options.repair)
    labels = labels_of(example for examples in splits.values() for example in examples)
    trained = (Path(options.model) / NER_CONFIG_NAME).is_file()
    codec = NerConfig.load(options.model).codec() if trained else Codec(labels)
    tokenizer = tiny_tokenizer() if options.model == "tiny" else load_tokenizer(options.model)
    counts = statistics(splits, {split: token_counts(examples, codec, tokenizer) for split, examples in splits.items()})
    name = Path(options.model).name or options.model
    print(table(counts, options.data, name))
    if options.json:
        write_json(options.json, {"data": options.data, "model": options.model, **counts.to_dict()})
    if options.plots:
        print("\n" + "\n".join(map(str, draw(counts, options.plots, name))))
