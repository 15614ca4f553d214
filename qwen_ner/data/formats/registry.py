"""Where annotated data lie and in which format: a file, a folder of splits, a Hugging Face data set.

In: a path or Hub id, and a split. Out: a `Source` that says its format and gives its `Example`s one at a time. The
format is told by the content; the name decides only where the content cannot. Knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ...entities import Example, LabelSet, NerError
from . import hugging_face
from .annotators import doccano_entities, read_label_studio
from .bio import Layout, looks_tagged, read_tagged, survey
from .errors import LineFault, Note, ignore
from .hugging_face import SPLIT_NAMES, TokenSet, open_tokens, read_tokens
from .rows import json_object, lines_of, numbered, read_rows
from .schemes import SCHEMES

Format = Literal["jsonl", "cluener", "doccano", "label-studio", "tagged", "tokens"]

NAMES: dict[Format, str] = {
    "jsonl": "JSONL, half-open offsets",
    "cluener": "CLUENER's JSON, inclusive offsets",
    "doccano": "doccano's JSONL",
    "label-studio": "Label Studio's JSON",
}

TAGGED_ENDINGS = ("bio", "conll", "iob", *(scheme.name.lower() for scheme in SCHEMES))
ENDINGS = ("jsonl", "json", "parquet", *TAGGED_ENDINGS, "tsv", "txt")
"""Of the files that a folder holds for a split; where there are several, the first."""

HEAD = 100
"""Lines that are looked at to tell whether a file is one of tagged lines."""


@dataclass(frozen=True)
class Source:
    """Annotated data of one split, with how they are written."""

    path: str
    format: Format
    layout: Layout | None = None
    tokens: TokenSet | None = None

    def __str__(self) -> str:
        return str(self.layout or self.tokens or NAMES[self.format])

    def examples(
        self, labels: LabelSet | None, *, unlabelled: bool = False, repair: bool = False, note: Note = ignore
    ) -> Iterator[Example]:
        """The examples, one at a time. Raises at the end, as the readers do: what came before counts only without.

        `unlabelled` accepts a file of CLUENER's without labels; `repair` reads tags that are out of order, and tells
        `note` of each; `note` is told of all that an `Example` has no place for.
        """
        if self.layout:
            return read_tagged(self.path, labels, layout=self.layout, repair=repair, note=note)
        if self.tokens:
            return read_tokens(self.tokens, labels, repair=repair, note=note)
        if self.format == "label-studio":
            return read_label_studio(self.path, labels, note=note)
        return read_rows(
            lines_of(self.path),
            self.path,
            labels,
            cluener=self.format == "cluener",
            unlabelled=unlabelled and self.format == "cluener",
            entities_of=doccano_entities if self.format == "doccano" else None,
            note=note,
        )


def open_source(dataset: str, split: str | None) -> Source:
    """The split of a data set that is no named one; looks through tagged data once. None: it must have no splits.

    Raises `NerError` where there is none or its format is not known.
    """
    path = Path(dataset).expanduser()
    file = path if path.is_file() else find(path, split) if split else None
    if file:
        found = detect(file)
        layout = survey(file) if found == "tagged" else None
        return Source(str(file), found, layout, open_tokens(str(file), None) if found == "tokens" else None)
    if path.is_dir() and not hugging_face.is_folder(path):
        if split is None:
            raise NerError(f"{dataset} is a folder; name the split with --split, or give a file in it")
        others = ", ".join(f".{ending}" for ending in ENDINGS[2:])
        raise NerError(
            f"{dataset} has no split {split!r}: it holds neither {split}.jsonl nor {split}.json (or {others}); add one"
        )
    if split is None and (names := hugging_face.split_names(dataset)):
        raise NerError(f"{dataset} has several splits; choose with --split one of {', '.join(names)}")
    return Source(dataset, "tokens", tokens=open_tokens(dataset, split))


def find(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder; for dev also one that is called validation."""
    files = (folder / f"{name}.{ending}" for name in SPLIT_NAMES.get(split, (split,)) for ending in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def detect(path: Path) -> Format:
    """The format of a file. Reads as much of it as is needed to tell. Raises `NerError` where it is none of them.

    Rows of JSON are told by what they hold. What rows of {label: surfaces} mean is told by the name: half-open offsets
    in .jsonl (and any other), CLUENER's inclusive ones in .json.
    """
    if path.suffix == ".parquet":
        return "tokens"
    head = list(islice(numbered(lines_of(path)), HEAD))
    first = head[0][1].strip() if head else b""
    if first.startswith(b"{") and first.endswith(b"}"):
        return _of_rows(path)
    tagged = looks_tagged(raw for _, raw in head)
    if first.startswith(b"[") and not tagged and path.suffix != ".jsonl":
        return "label-studio"
    if path.suffix in (".jsonl", ".json"):
        return "jsonl" if path.suffix == ".jsonl" else "cluener"
    if tagged or path.suffix[1:] in TAGGED_ENDINGS:
        return "tagged"
    raise NerError(
        f"{str(path)!r} is no .jsonl or .json file, and its lines do not end in tags either; what is read: "
        f"{', '.join(NAMES.values())}, lines of a token and its tag, Parquet with tokens and ner_tags"
    )


def _of_rows(path: Path) -> Format:
    by_name: Format = "cluener" if path.suffix == ".json" else "jsonl"
    for _, raw in numbered(lines_of(path)):
        try:
            row = json_object(raw)
        except LineFault:
            continue
        found = _of_row(row, by_name)
        if found:
            return found
    return by_name


def _of_row(row: dict[str, Any], by_name: Format) -> Format | None:
    """The format that this row shows, or None where it might be of several."""
    if "tokens" in row and "text" not in row:
        return "tokens"
    if isinstance(row.get("label"), list) or "labels" in row:
        return "doccano"
    if isinstance(row.get("label"), dict):
        return by_name
    items = row.get("entities")
    if isinstance(items, list) and items:
        if isinstance(items[0], dict) and "start_offset" not in items[0]:
            return by_name
        return "doccano"
    return "doccano" if items == [] and "relations" in row else None
