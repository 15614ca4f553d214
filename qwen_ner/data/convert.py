"""One format of annotated data to another: `qwen-ner convert IN OUT`.

In: a data set of any format that is read, the name of a file to write. Out: that file, whole or not at all, and a
`Conversion` that counts and lists what it could not take over. Rows are read and written one at a time; only Label
Studio's JSON, which is no line format, is held in memory. Knows nothing of tokens of models, or recipes.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..entities import Example, NerError
from ..files import beside
from .datasets import NAMED, as_row, check_place, read_dataset
from .formats.annotators import doccano_row, label_studio_task
from .formats.bio import LINE_BREAKS, first_line_mark, tagged
from .formats.cluener import read_cluener
from .formats.errors import Note, count, ignore
from .formats.hugging_face import write_parquet
from .formats.registry import NAMES, open_source
from .formats.schemes import SCHEMES, Scheme
from .formats.tagging import NESTED

log = logging.getLogger(__name__)

SHOWN = 10
"""How many places are listed of each kind of thing that is not taken over; all are counted."""

REFUSED = (NESTED, LINE_BREAKS)
"""What changes a text or its entities. The rest is beside the annotation (ids, scores, document marks)."""

TAGGED: dict[str, Scheme] = {scheme.name.lower(): scheme for scheme in SCHEMES}
TARGETS = ("jsonl", "cluener", "doccano", "label-studio", "parquet", *TAGGED)

BY_ENDING = {
    "jsonl": "jsonl",
    "json": "cluener",
    "parquet": "parquet",
    **dict.fromkeys(("bio", "conll", "tsv", "txt"), "bio2"),
    **{name: name for name in TAGGED},
}


@dataclass
class Losses:
    """What is not taken over: how often, and where the first times."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        self.counts[what] += 1
        shown = self.places.setdefault(what, [])
        if len(shown) < SHOWN:
            shown.append(where)

    @property
    def refused(self) -> bool:
        """Whether any of it changes a text or its entities."""
        return any(what in self.counts for what in REFUSED)

    def __str__(self) -> str:
        """A line a kind, with the places below.

        >>> losses = Losses()
        >>> losses.note("scores", "a.jsonl:3")
        >>> print(losses)
        scores: 1
          a.jsonl:3
        """
        lines: list[str] = []
        for what, number in self.counts.items():
            lines += [f"{what}: {number:,}", *(f"  {place}" for place in self.places[what])]
            if number > SHOWN:
                lines.append(f"  … and {number - SHOWN:,} more")
        return "\n".join(lines)


@dataclass(frozen=True)
class Conversion:
    """What was written, and what of the source is not in it."""

    rows: int
    entities: int
    losses: Losses


def convert(
    source: str,
    target: str | Path,
    *,
    to: str | None = None,
    split: str | None = None,
    lossy: bool = False,
    repair: bool = False,
) -> Conversion:
    """Read `source` (as `formats.read_dataset` does, `split` of it) and write it to the file `target`.

    The format of the source is told by its content, the target's by `to` (of `TARGETS`) or by its name; both are
    logged. Raises `NerError`, and leaves an old `target` as it is, where the source has a fault, or where the target
    could not hold all entities and texts of it. `lossy` writes the rest then; `repair` reads tags that are out of
    order. What else is not taken over (ids, scores, other keys and columns) is counted, listed and logged.
    """
    path = Path(target).expanduser()
    to = _target(path, to)
    if path.is_dir() or (path.exists() and path.resolve() == Path(source).expanduser().resolve()):
        raise NerError(f"{path} is {'a folder' if path.is_dir() else 'the source itself'}; name another file to write")
    read, said = _reader(source, split, repair)
    log.info("%s is read as %s", source, said)
    losses = Losses()
    counted = _Counted(read(losses.note))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as part:
            if to == "parquet":
                labels = sorted({entity.label for example in read(ignore) for entity in example.entities})
                write_parquet(part, _without_scores(counted, losses.note), labels, losses.note)
            else:
                with part.open("w", encoding="utf-8", newline="\n") as file:
                    file.writelines(_lines(counted, to, losses.note))
            if losses.refused and not lossy:
                raise NerError(
                    f"{path} is not written: {to} cannot hold all of {source}\n{losses}\n"
                    "give --lossy to leave that out, or choose jsonl, which holds everything"
                )
    except OSError as error:
        raise NerError(f"{path} cannot be written ({error.strerror or error}); choose another place") from error
    except UnicodeEncodeError as error:
        raise NerError(f"{path} cannot be written ({error}); correct the text") from error
    if losses.counts:
        log.warning("Not in %s as it stands in %s:\n%s", path, source, losses)
    written = Conversion(counted.rows, counted.entities - losses.counts[NESTED], losses)
    log.info("%s is written as %s: %s, %s", path, to, count(written.rows, "row"), f"{written.entities:,} entities")
    return written


def _target(path: Path, to: str | None) -> str:
    known = BY_ENDING.get(path.suffix[1:]) if to is None else to
    if known not in TARGETS:
        what = f"the name of {path} does not say its format" if to is None else f"{to!r} is no format"
        raise NerError(f"{what}; give --to one of {', '.join(TARGETS)}")
    return known


def _reader(source: str, split: str | None, repair: bool) -> tuple[Callable[[Note], Iterator[Example]], str]:
    """What reads the source anew each time it is called, and what it is read as."""
    if source in NAMED:
        if split is None:
            raise NerError(f"{source} has several splits; choose one with --split")
        if (source, split) == ("cluener", "test"):
            raise NerError("the test split of cluener has no labels; choose train or dev with --split")
        examples = read_cluener(split) if source == "cluener" else read_dataset(source, split)
        return lambda _: iter(examples), NAMES["cluener" if source == "cluener" else "jsonl"]
    check_place(source)
    opened = open_source(source, split)
    return lambda note: opened.examples(None, repair=repair, note=note), str(opened)


class _Counted:
    """Counts the rows and entities that pass through."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self.examples, self.rows, self.entities = examples, 0, 0

    def __iter__(self) -> Iterator[Example]:
        for example in self.examples:
            self.rows += 1
            self.entities += len(example.entities)
            yield example


def _lines(examples: Iterable[Example], to: str, lose: Note) -> Iterator[str]:
    if to != "jsonl" and to != "label-studio":
        examples = _without_scores(examples, lose)
    if to in TAGGED:
        yield from _tagged(examples, TAGGED[to], lose)
    elif to == "label-studio":
        for number, example in enumerate(examples):
            yield ("[\n" if number == 0 else ",\n") + json.dumps(label_studio_task(example), ensure_ascii=False)
        yield "\n]\n"
    elif to == "cluener":
        for number, example in enumerate(examples):
            yield json.dumps(_cluener_row(example, number), ensure_ascii=False) + "\n"
    else:
        row_of = as_row if to == "jsonl" else doccano_row
        for example in examples:
            yield json.dumps(row_of(example), ensure_ascii=False) + "\n"


def _tagged(examples: Iterable[Example], scheme: Scheme, lose: Note) -> Iterator[str]:
    for number, example in enumerate(examples):
        if number == 0:
            yield first_line_mark(example.text)
        # An id that only counts rows or lines is not lost: reading gives another such number.
        if example.id not in (str(number), str(number + 1), example.source.rpartition(":")[2]):
            lose("ids", example.source)
        yield tagged(example, scheme, lose)


def _without_scores(examples: Iterable[Example], lose: Note) -> Iterator[Example]:
    for example in examples:
        if any(entity.score is not None for entity in example.entities):
            lose("scores", example.source)
        yield example


def _cluener_row(example: Example, number: int) -> dict[str, object]:
    """The row that is read back equal; an id that only counts rows is left out, as it is in CLUENER's own files."""
    label: dict[str, dict[str, list[list[int]]]] = {}
    for entity in example.entities:
        label.setdefault(entity.label, {}).setdefault(entity.text, []).append([entity.start, entity.end - 1])
    row: dict[str, object] = {"text": example.text, "label": label}
    return row if example.id == str(number) else row | {"id": example.id}
