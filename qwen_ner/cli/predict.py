"""Extract entities from texts.

Writes one JSON object per text: id, text, entities with half-open character offsets, and problems if there are any.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_extraction, add_model

if TYPE_CHECKING:
    from ..data.datasets import TextRow


def add_arguments(parser: ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("files", nargs="*", help='texts, one a line, or JSONL with "text"; "-" or none: standard input')
    parser.add_argument("--text", action="append", help="a sentence; can be repeated")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--format",
        choices=("json", "cluener"),
        default="json",
        help="cluener: a submission to CLUENER, made from its test.json; default: json",
    )
    add_extraction(parser)


def run(options: Namespace, _: list[str]) -> None:
    from ..entities import NerError
    from ..inference.batch_predict import stream
    from ..inference.extractor import Extractor

    if options.text and options.files:
        raise NerError("give either --text or files, not both", remedy="leave one of them out")
    rank, ranks, device = _join_group(standard_input=not options.text and "-" in (options.files or ["-"]))
    extractor = Extractor.from_pretrained(options.model, revision=options.revision, device=device)
    refused = stream(
        extractor,
        _texts(options),
        options.output or sys.stdout,
        rank=rank,
        ranks=ranks,
        submission=options.format == "cluener",
        min_score=options.min_score,
        thresholds=options.thresholds,
        batch_tokens=options.batch_tokens,
    )
    if refused and rank == 0:
        sys.exit(f'error: {refused} texts were refused; their lines in the output give the reason under "error"')


def _join_group(*, standard_input: bool) -> tuple[int, int, str | None]:
    """(rank, ranks, device) under accelerate, or (0, 1, None). Raises `NerError` where ranks cannot share the work."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return 0, 1, None
    import torch
    import torch.distributed.nn.functional  # before there is a group: its defaults would keep the group alive
    from accelerate import PartialState

    from ..entities import NerError

    if standard_input:
        raise NerError("several processes cannot share standard input", remedy="give files")
    state = PartialState(cpu=not torch.cuda.is_available())  # else each process on a CPU believes that it is alone
    if state.num_processes != ranks:
        remedy = "check the accelerate config"
        raise NerError(f"accelerate should see {ranks} processes", value=state.num_processes, remedy=remedy)
    return state.process_index, state.num_processes, str(state.device)


def _texts(options: Namespace) -> Iterator[TextRow]:
    from ..data.datasets import read_texts

    if options.text:
        yield from read_texts((text.encode() for text in options.text), "--text")
    for name in options.files or ([] if options.text else ["-"]):
        if name == "-":
            yield from read_texts(sys.stdin.buffer, "standard input")
        else:
            with open(name, "rb") as lines:
                yield from read_texts(lines, name)
