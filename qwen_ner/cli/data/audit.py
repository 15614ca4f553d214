"""List likely annotation errors, most likely first.

Finds places that are annotated differently from most comparable places of the same split. With --sure it lists only
corrections that models are sure of. `qwen-ner convert --corrections` applies the list, after you have read it.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

from ..options import add_data, check_writable, count


def add_arguments(parser: ArgumentParser) -> None:
    add_data(parser, split="train")
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="what `qwen-ner folds` or `predict` wrote for these texts; repeat it for several models, trained on other "
        "rows",
    )
    what = "only corrections that models are sure of: entities with a confidence of 0.9 or more that the annotation "
    what += "lacks; what they replace has 0.1 or less; needs --predictions with the folds.jsonl of `qwen-ner folds`"
    parser.add_argument("--sure", action="store_true", help=what)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the findings to FILE as JSONL")
    parser.add_argument("--limit", type=count, metavar="N", help="the first N findings only")


def run(options: Namespace, _: list[str]) -> None:
    from ...data.analysis.audit import audit
    from ...data.analysis.corrections import propose
    from ...data.analysis.disagreement import predictions_by_text
    from ...data.analysis.findings import write_findings
    from ...data.datasets import read_dataset
    from ...data.formats import errors
    from ...entities import NerError

    if options.sure and not options.predictions:
        remedy = "give it the folds.jsonl that `qwen-ner folds` writes"
        raise NerError("needs --predictions", place="--sure", remedy=remedy)
    if options.output:
        check_writable(options.output)
    examples = read_dataset(options.data, options.split, data_dir=options.data_dir)
    predictions = [predictions_by_text(file, examples) for file in options.predictions]
    findings = (propose if options.sure else audit)(examples, predictions)
    if options.output:
        write_findings(options.output, findings[: options.limit])
    else:
        print("".join(f"{finding}\n" for finding in findings[: options.limit]), end="")
    kinds = Counter(finding.kind for finding in findings)
    counts = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
    found = f"{errors.count(len(findings), 'finding')} in {errors.count(len(examples), 'row')}"
    print(f"{found}{': ' + counts if counts else ''}", file=sys.stderr)
