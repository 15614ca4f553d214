"""One format of annotated data to another: `qwen-ner convert IN OUT`.

In: a data set of any format, the name of a file to write. Out: that file, whole or not at all, and a `Conversion` that
counts and lists what could not be carried over. Rows are read and written one at a time, except Label Studio's JSON,
which is no line format. Knows nothing of model tokens or recipes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..entities import Example, NerError
from ..files import beside
from .analysis.corrections import Corrections
from .datasets import open_dataset
from .formats.errors import CHANGES, NESTED, count
from .formats.registry import Source, target_name, writers
from .notes import Notes, Watch

log = logging.getLogger(__name__)


@dataclass
class Conversion:
    """The rows of a source, and what of them is not in the target. They are read and counted anew each time."""

    source: Source
    repair: bool
    corrections: Corrections | None
    keep: frozenset[str] | None
    rows: int = 0
    entities: int = 0
    losses: Notes = field(default_factory=Notes)
    watch: Watch = field(default_factory=Watch)

    def note(self, what: str, where: str) -> None:
        self.losses.note(what, where)
        self.entities -= what == NESTED

    def __iter__(self) -> Iterator[Example]:
        self.rows, self.entities, self.losses, self.watch = 0, 0, Notes(), Watch(keep=self.keep)
        read = self.source.examples(repair=self.repair, keep=self.keep, note=self.note, warn=self.watch.note)
        rows = self.watch.examples(read)
        for example in self.corrections.apply(rows) if self.corrections else rows:
            self.rows += 1
            self.entities += len(example.entities)
            yield example


def convert(
    source: str,
    target: str | Path,
    *,
    to: str | None = None,
    split: str | None = None,
    keep: Iterable[str] | None = None,
    lossy: bool = False,
    repair: bool = False,
    corrections: str | Path | None = None,
) -> Conversion:
    """Read `source` (as `datasets.read_dataset` does, `split` of it) and write it to the file `target`.

    The content tells the format of the source; `to` (a name of `registry.writers`) or its name that of the target; both
    are logged. Rows keep the entities of the labels `keep`, or all. Raises `NerError`, and keeps an old `target`, if
    the source has a fault, or if the target could not hold all of its entities and texts. `lossy` then writes the rest;
    `repair` reads tags that are out of order. What else is not carried over (ids, scores, other keys and columns) is
    counted, listed and logged. `corrections` is a file of findings, which are applied (`Corrections`), counted and
    logged; one that fits no row is an error, and so are both `keep` and `corrections`.
    """
    path = Path(target).expanduser()
    name = to or target_name(path) or ""
    if (write := writers().get(name)) is None:
        raise NerError(
            "its format is unknown, or read but not written",
            value=to,
            place=path,
            remedy=f"give --to one of {', '.join(writers())}",
        )
    if path.is_dir() or (path.exists() and path.resolve() == Path(source).expanduser().resolve()):
        raise NerError("is a folder, or the source itself", place=path, remedy="name another file to write")
    if corrections is not None and keep is not None:
        remedy = "write all labels with the corrections first, then convert that file with the labels to keep"
        raise NerError("corrections are of all labels", value=str(corrections), place="corrections", remedy=remedy)
    read = open_dataset(source, split)
    log.info("%s is read as %s", source, read)
    kept = None if keep is None else frozenset(keep)
    done = Conversion(read, repair, None if corrections is None else Corrections(corrections), kept)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as part:
            write(part, done, done.note)
            done.watch.check_kept()
            if not lossy and any(what in done.losses.counts for what in CHANGES):
                fault = f"{name} cannot hold all of {source}, so nothing is written"
                remedy = f"give --lossy to leave this out, or choose jsonl, which holds everything:\n{done.losses}"
                raise NerError(fault, place=path, remedy=remedy)
    except (OSError, UnicodeEncodeError) as error:
        remedy = "choose another place" if isinstance(error, OSError) else "correct the text"
        raise NerError(f"cannot be written ({error})", place=path, remedy=remedy) from error
    done.watch.log(source)
    if done.corrections:
        done.corrections.log()
    if done.losses.counts:
        log.warning("Not in %s as it is in %s:\n%s", path, source, done.losses)
    log.info("%s is written as %s: %s, %s", path, name, count(done.rows, "row"), count(done.entities, "entity"))
    return done
