"""Texts of any number to lines of JSON, one a text, in order.

In: an Extractor and `TextRow`s as they are read. Out: lines, appended to a file that says how far it got; on several
ranks each extracts its share and the first one writes. Knows nothing of how texts are read and models loaded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..codec import entity_row
from ..data.datasets import TextRow
from ..data.formats.predictions import submission_row
from ..entities import NerError
from .extractor import Extractor, TextTooLong

log = logging.getLogger(__name__)

ROWS = 512
"""Texts that are read, sorted by length and written at a time: what is held of a stream, and lost by a kill."""


def stream(
    extractor: Extractor,
    rows: Iterator[TextRow],
    output: Path | IO[str],
    *,
    rank: int = 0,
    ranks: int = 1,
    submission: bool = False,
    **options: Any,
) -> int:
    """Write a line for each of `rows` to `output`; returns how many of them hold an `error`.

    A line has the text and its entities; with `submission` it is one of CLUENER's (`data.predictions.submission_row`).

    Where `output` is a file that holds lines of the first of these rows already, it goes on behind them. `options` are
    those of `Extractor.predictions`. With several `ranks` (accelerate's process group must stand) all read the same
    rows. Raises `NerError` where the file holds lines of other texts.
    """
    from tqdm.auto import tqdm

    refused = 0
    with ExitStack() as stack:
        file: IO[str] | None = None
        if not isinstance(output, Path):
            file = None if rank else output
        else:
            done, refused = _skip_done(output, rows, write=rank == 0)
            if done:
                log.warning("%s holds %d of these texts; going on behind them. Remove it to begin anew.", output, done)
            file = None if rank else stack.enter_context(output.open("a", encoding="utf-8"))
        bar = stack.enter_context(tqdm(desc="Extracting", unit="text", disable=True if rank else None))
        while chunk := list(islice(rows, ROWS)):
            lines = _shared(list(_lines(extractor, chunk[rank::ranks], submission, options)), ranks)
            refused += sum("error" in line for line in lines)
            if file is not None:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                file.flush()
            bar.update(len(chunk))
    return refused


def _lines(
    extractor: Extractor, rows: Sequence[TextRow], submission: bool, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """One output line a row, in order; a row that cannot be read or does not fit becomes a line with `error`."""
    faults = {i: row.fault for i, row in enumerate(rows) if row.fault is not None}
    texts = [row.text or "" for row in rows]
    try:
        decoded = extractor.predict(texts, **options)
    except TextTooLong as error:
        faults |= {i: f"{rows[i].source}: {fault}" for i, fault in error.faults.items()}
        decoded = extractor.predict(["" if i in faults else text for i, text in enumerate(texts)], **options)
    for i, (row, found) in enumerate(zip(rows, decoded, strict=True)):
        if i in faults:
            yield {"id": row.id, "error": faults[i]}
            continue
        if submission:
            yield submission_row(row.id, found.entities, extractor.config.labels)
            continue
        entities = [entity_row(entity) for entity in found.entities]
        line: dict[str, Any] = {"id": row.id, "text": row.text, "entities": entities}
        if found.problems:
            line["problems"] = [{"kind": p.kind, "label": p.label, "value": p.value} for p in found.problems]
        yield line


def _shared(lines: list[dict[str, Any]], ranks: int) -> list[dict[str, Any]]:
    """The lines of all ranks, of which each had every `ranks`-th row, in the order of the rows."""
    if ranks == 1:
        return lines
    from torch.distributed import all_gather_object

    shares: list[list[dict[str, Any]]] = [[] for _ in range(ranks)]
    all_gather_object(shares, lines)
    return [shares[i % ranks][i // ranks] for i in range(sum(map(len, shares)))]


def _skip_done(output: Path, rows: Iterator[TextRow], *, write: bool) -> tuple[int, int]:
    """Take from `rows` those that `output` has lines of; (how many, how many of them with an error).

    A last line that was cut off is removed from the file.
    """
    if not output.exists():
        return 0, 0
    done = refused = whole = 0
    with output.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            row = next(rows, None)
            try:
                line = json.loads(raw)
                same = row is not None and str(line["id"]) == row.id and line.get("text", row.text) == row.text
            except (ValueError, KeyError, TypeError, AttributeError):
                same = False
            if not same:
                raise NerError(
                    f"{output}:{done + 1}: holds the line of another text than the input has there; remove the file, "
                    "or choose another --output"
                )
            done, refused, whole = done + 1, refused + ("error" in line), whole + len(raw)
    if write and whole < output.stat().st_size:
        with output.open("r+b") as file:
            file.truncate(whole)
    return done, refused
