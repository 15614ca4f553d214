"""Choose the texts that are worth annotating next.

Takes the texts that the model is least certain of and that differ from each other, and writes them with what the model
finds, for annotators to correct: Label Studio's tasks to a .json, doccano's rows to a .jsonl, a sheet to an .xlsx or
.csv. `qwen-ner convert` reads what comes back.
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import add_batch_tokens, add_dtype, add_engine, add_files, add_model, count
from ..predict import STDIN, check_files, texts_of

if TYPE_CHECKING:
    from ...inference.select import Selection

log = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    add_model(parser)
    add_files(parser)
    parser.add_argument("--count", type=count, default=100, metavar="N", help="how many to choose; default: 100")
    forms = "tasks.json for Label Studio, rows.jsonl for doccano, rows.xlsx or rows.csv for Excel"
    what = f"{forms}; default: doccano's rows to standard output"
    parser.add_argument("--output", type=Path, metavar="FILE", help=what)
    what = "choose no text of this data set, such as what is annotated already; all its splits; can be repeated"
    parser.add_argument("--exclude", action="append", default=[], metavar="DATA", help=what)
    add_dtype(parser)
    add_batch_tokens(parser)
    add_engine(parser)


def run(options: Namespace, _: list[str]) -> None:
    from ...data.formats.foreign import tables
    from ...entities import NerError
    from ...inference.extractor import Extractor
    from ...inference.select import for_excel, select, write

    names = options.files or [STDIN]
    if options.output and options.output.suffix not in (".json", ".jsonl", *tables.SUFFIXES):
        remedy = "name a .json for Label Studio, a .jsonl for doccano, or an .xlsx for Excel"
        raise NerError("unknown output format", value=str(options.output), place="--output", remedy=remedy)
    check_files(names, options.output)
    exclude = set(_texts_in(options.exclude))
    extractor = Extractor.from_pretrained(
        options.model, revision=options.revision, backend=options.engine, dtype=options.dtype
    )
    rows = texts_of(names)
    if options.output and options.output.suffix == ".xlsx":
        rows = map(for_excel, rows)
    found = select(extractor, rows, options.count, exclude=exclude, batch_tokens=options.batch_tokens)
    if found.left_out.counts:
        log.warning("%s", found.left_out)
    if not found.chosen:
        raise NerError("no text to choose", value=_counts(found), remedy="give other files, or another --exclude")
    write(options.output, found.chosen, "@".join(filter(None, (options.model, options.revision))))
    chosen = f"{options.output or 'standard output'}: {len(found.chosen):,} of {options.count:,} chosen"
    first, last = found.chosen[0].probability, found.chosen[-1].probability
    log.info("%s\n%s, probability of their answers %.2g to %.2g", _counts(found), chosen, first, last)


def _texts_in(datasets: Sequence[str]) -> Iterator[str]:
    from ...data.datasets import read_all

    for dataset in datasets:
        for examples in read_all(dataset).values():
            yield from (example.text for example in examples)


def _counts(found: Selection) -> str:
    left_out = sum(found.left_out.counts.values())
    read = f"{found.read:,} texts read: {found.repeated:,} repeated, {found.excluded:,} excluded"
    return f"{read}, {left_out:,} left out"
