"""Any number of texts to lines of JSON, one for each text, in order.

In: an `Extractor`, and `TextRow`s as they are read. Out: lines, appended to a file or a stream; with several ranks each
extracts its share and the first one writes. Knows nothing of how texts are read or models loaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from ..codec import Decoded, entity_row
from ..data.arriving import Arriving
from ..data.datasets import TextRow
from ..data.formats.predictions import submission_row
from ..entities import LabelSet, NerError, TextFault
from ..files import json_line
from .asked import TextTooLong
from .extractor import Extractor
from .output_file import resume

log = logging.getLogger(__name__)

ROWS = 512
"""Texts that are read, sorted by length and written at a time: what is held of a stream, and lost if it is killed."""


def stream(
    extractor: Extractor,
    rows: Iterator[TextRow] | Arriving[TextRow],
    output: Path | IO[str],
    *,
    rank: int = 0,
    ranks: int = 1,
    submission: bool = False,
    **options: Any,
) -> int:
    """Write a line for each of `rows` to `output`; returns how many of them hold an `error`.

    A line has the text and its entities; with `submission` it is one of CLUENER's submission
    (`data.formats.predictions.submission_row`). `options` are those of `Extractor.predictions`. How many texts were
    read in windows is logged.

    A file (`output_file.open_output`) that already holds lines of the first of these rows is continued, as
    `output_file.resume` says. `rows` that are `Arriving` are answered as they come. With several `ranks` (in
    accelerate's process group, which must be initialized) all read the same rows.
    """

    def answer(chunk: Sequence[TextRow]) -> list[dict[str, Any]]:
        return gather(list(result_lines(extractor, chunk[rank::ranks], submission, options)), ranks)

    done = refused = texts = long = 0
    window = extractor.config.window
    file: Any = nullcontext(output)
    if isinstance(output, Path):
        done, refused = resume(output, rows, answer, size=ROWS, write=rank == 0)
        file = (Path(os.devnull) if rank else output).open("a", encoding="utf-8")
    if done:
        log.warning("%s already holds %d of these texts; continuing. Remove it to start again.", output, done)
    with file as out, tqdm(desc="Extracting", unit="text", disable=True if rank else None) as bar:
        while chunk := rows.chunk(ROWS) if isinstance(rows, Arriving) else list(islice(rows, ROWS)):
            lines = answer(chunk)
            refused += sum("error" in line for line in lines)
            texts += len(chunk)
            long += sum(0 < window < len(row.text or "") for row in chunk)
            if rank == 0:
                out.writelines(map(json_line, lines))
                out.flush()
            bar.update(len(chunk))
    if long and rank == 0:
        why = f"longer than {window} characters, as the longest row that the model was trained on"
        log.warning("%d of %d texts are %s; they were read in windows of that length.", long, texts, why)
    return refused


def result_lines(
    extractor: Extractor, rows: Sequence[TextRow], submission: bool, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The output line of each row; one that could not be read or does not fit becomes a line with `error`."""
    if submission:
        rows = [row if row.fault else _numbered(row, extractor.config.labels) for row in rows]
    for row, found in zip(rows, predicted(extractor, rows, options), strict=True):
        if isinstance(found, str):
            yield {"id": row.id, "error": found}
        elif submission:
            yield submission_row(row.id, found.entities, extractor.config.labels)
        else:
            line = {"id": row.id, "text": row.text, "entities": [entity_row(entity) for entity in found.entities]}
            faults = {"ungrounded": found.ungrounded, "problems": [asdict(problem) for problem in found.problems]}
            yield line | {key: value for key, value in faults.items() if value}


def _numbered(row: TextRow, labels: LabelSet) -> TextRow:
    """The row, with a fault instead of its text if its id cannot stand in a submission."""
    try:
        submission_row(row.id, (), labels)
    except NerError as error:
        return replace(row, text=None, fault=f"{row.source}: {error}")
    return row


def predicted(extractor: Extractor, rows: Sequence[TextRow], options: dict[str, Any]) -> list[Decoded | str]:
    """What was found in each row, or why it could not be read or does not fit."""
    found = predict_each(extractor, [row.text or "" for row in rows], **options)
    places = [f"{row.source}: {one}" if isinstance(one, str) else one for row, one in zip(rows, found, strict=True)]
    return [row.fault or one for row, one in zip(rows, places, strict=True)]


def predict_each(extractor: Extractor, texts: Sequence[str], **options: Any) -> list[Decoded | str]:
    """What was found in each text, or why it cannot be read or does not fit into the model's context."""
    try:
        return list(extractor.predict(texts, **options))
    except TextTooLong as error:
        faults = error.faults
    except TextFault as error:
        if len(texts) < 2:
            return [str(error)]
        half = len(texts) // 2  # which one it is, the error does not say
        return [one for part in (texts[:half], texts[half:]) for one in predict_each(extractor, part, **options)]
    found = predict_each(extractor, ["" if i in faults else text for i, text in enumerate(texts)], **options)
    return [faults.get(i, decoded) for i, decoded in enumerate(found)]


def gather(lines: list[dict[str, Any]], ranks: int) -> list[dict[str, Any]]:
    """The lines of all ranks, each of which had every `ranks`-th row, in the order of the rows."""
    if ranks == 1:
        return lines
    from torch.distributed import all_gather_object

    shares: list[list[dict[str, Any]]] = [[] for _ in range(ranks)]
    all_gather_object(shares, lines)
    return [shares[i % ranks][i // ranks] for i in range(sum(map(len, shares)))]
