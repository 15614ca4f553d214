"""Score a trained model, or its predictions, on a data set.

Prints precision, recall and F1 with their 95 % intervals, and the errors by kind.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from .options import add_data, add_engine, add_extraction, add_model, check_writable, count, pick


def add_arguments(parser: ArgumentParser) -> None:
    add_model(parser, file=True)
    add_data(parser)
    parser.add_argument("--limit", type=count, metavar="N", help="score the first N rows only")
    add_extraction(parser)
    add_engine(parser)
    parser.add_argument(
        "--decoding",
        choices=("both", "free", "constrained"),
        default="both",
        help="free: as training scores it; constrained: under the grammar, as predict writes; default: both",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the scores to FILE")
    parser.add_argument(
        "--negatives",
        action="store_true",
        help="also count false positives in clauses without entities, cut from the rows",
    )
    files = "report.html, metrics.json, errors.jsonl and predictions.jsonl"
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help=f"write {files} to DIR; if both decodings are scored, to a folder each",
    )


def run(options: Namespace, _: list[str]) -> None:
    from ..evaluation.report import write_report
    from ..files import write_json
    from ..hub.card import history
    from ..inference.evaluate import evaluate

    log = history(Path(options.model))
    if options.json:
        check_writable(options.json)
    if options.report:
        check_writable(options.report / "report.html", make_folder=True)
    both = options.decoding == "both" and not Path(options.model).is_file()
    scores: dict[str, Any] = {"model": options.model, "data": options.data, "split": options.split}
    given = pick(options, "revision", "dtype", "data_dir", "limit", "batch_tokens", "negatives")
    given |= pick(options, "min_score", "thresholds", "samples", "temperature", "top_p") | {"backend": options.engine}
    decodings = ("free", "constrained") if options.decoding == "both" else (options.decoding,)
    for result in evaluate(options.model, options.data, options.split, decodings=decodings, **given):
        decoding = result.contract.decoding
        print(result.table(), flush=True)
        scores[decoding] = result.to_dict()
        if options.report:
            folder = options.report / decoding if both else options.report
            write_report(result, folder, history=log)
            print(f"report: {folder / 'report.html'}")
    if options.json:
        write_json(options.json, scores)
