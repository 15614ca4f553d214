"""The formats that can be read and written, and where annotated data are: a file, a folder of splits, the Hub.

A format is a module of this folder (or any object) with

    NAME         what `convert --to` calls it
    SUFFIXES     file names to look for in a folder of splits, and by which `convert` chooses what to write
    DESCRIPTION  one line for help texts, documentation and the log
    sniff        (head, name) -> whether a file with this beginning and this name is of this format, if they can tell
    claims       (path) -> whether a file or folder is of this format by what lies beside or in it, if that can tell
    read         (path, labels, *, note, warn, **options) -> its `Example`s
    write        (path, examples, lose), if it can be written; `examples` can be iterated over several times
    survey       (path), if it must be looked through before it is read: `read` gets the result (or None) as `layout`,
                 and its str() says how the file is written
    VARIANTS     names, if it is written in several ways: `write` gets one as `variant`

and an entry in `FORMATS`, among which a file's format is found where it is not known beforehand, as by `convert`,
`train` and `stats`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ...columns import join_names
from ...entities import Example, LabelSet, NerError
from . import cluener, doccano, hugging_face, jsonl, label_studio
from .foreign import inline, standoff, tables, tools
from .foreign.items import KEYS
from .hugging_face import SPLIT_NAMES, the_one
from .lines import lines_of, warn_once
from .rows import values_in
from .tagged import bio, sentences

FORMATS: list[Any] = [
    jsonl,
    cluener,
    hugging_face,
    bio,
    doccano,
    tools,
    label_studio,
    inline,
    sentences,
    standoff,
    tables,
]
"""The last one is asked first, so that a special dialect goes after a general one. In a folder, the suffixes of the
first are looked for first."""

log = logging.getLogger(__name__)

_PARTS = re.compile(r"[._-]+")

HIDDEN = (".", "~$")
"""How the names of files begin that editors leave beside those of data."""

PREDICTED = {"pred", "preds", "predicted", "prediction", "predictions"}
"""Parts of the names of files that a model wrote."""

PACKED = (".gz", ".bz2", ".xz", ".zip", ".zst")

BINARY = {
    b"\xd0\xcf\x11\xe0": ("is a workbook as Excel wrote it until 2003 (.xls)", "save it as .xlsx or .csv"),
    b"\x1f\x8b": ("is compressed", "unpack it (gunzip)"),
    b"PK\3\4": ("is an archive", "unpack it, or call it .xlsx if it is a workbook"),
}
"""The first bytes of such files, what they are, and what to do."""

HEAD = 1 << 20
"""Bytes at the beginning of a file that tell its format."""


@dataclass(frozen=True)
class Source:
    """Annotated data of one split, with their format and how they are written."""

    path: str
    format: Any
    layout: Any = None

    def __str__(self) -> str:
        return str(self.layout or self.format.DESCRIPTION)

    def examples(self, labels: LabelSet | None = None, **options: Any) -> Iterator[Example]:
        """The examples, one at a time. Errors come at the end: the examples before are valid only if there is none.

        Of `options` each format takes those that it knows: `unlabelled` accepts a file of CLUENER's without labels,
        `repair` reads tags that are out of order and notes each, `keep` names the labels that are wanted, `note` gets
        all that an `Example` has no place for, `warn` what is read otherwise than it is written.
        """
        return self.format.read(self.path, labels, layout=self.layout, **options)


def open_source(dataset: str, split: str | None) -> Source:
    """The split of a data set that is a path or a Hub id; None if it has no splits. Looks through tagged data once.

    Raises `NerError` if there is none or its format is unknown.
    """
    path = Path(dataset).expanduser()
    file = path if path.is_file() or has_documents(path) else find(path, split) if split else None
    if file:
        if file.parent == path:
            _tell_others(path)
        found = detect(file)
        return Source(str(file), found, found.survey(str(file)) if hasattr(found, "survey") else None)
    if path.is_dir() and not hugging_face.is_folder(path):
        if split is None:
            raise NerError("is a folder", place=dataset, remedy="name the split with --split, or give a file in it")
        names = f"{split}.jsonl, {split}.json or {split} with one of {', '.join(suffixes()[2:])}"
        raise NerError("no such split", value=split, place=dataset, remedy=f"add {names}")
    if split is None and (names := ", ".join(hugging_face.split_names(dataset))):
        raise NerError("has several splits", place=dataset, remedy=f"choose with --split one of {names}")
    return Source(dataset, hugging_face, hugging_face.survey(dataset, split))


def has_documents(path: Path) -> bool:
    """Whether this is a folder whose files are the annotated documents of one split."""
    return path.is_dir() and any(_claims(format, path) for format in FORMATS)


def _claims(format: Any, path: Path) -> bool:
    return hasattr(format, "claims") and format.claims(path)


def find(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, or its folder of documents, under one of its `SPLIT_NAMES`.

    A name that is the split's and a known suffix goes before one with the name of this split alone among its parts,
    such as `train.char.bmes` or `weiboNER.train`, which is logged. Raises `NerError` for several.
    """
    aliases = SPLIT_NAMES.get(split, (split,))
    named = (folder / f"{name}{suffix}" for name in aliases for suffix in suffixes())
    exact = list(filter(Path.is_file, named))
    found = exact or [
        path
        for path in sorted(folder.iterdir() if folder.is_dir() else ())
        if not path.name.startswith(HIDDEN)
        and (parts := {*_PARTS.split(path.name.lower())}) & {*aliases}
        and not parts & PREDICTED
        and sum(bool(parts & {*names}) for names in SPLIT_NAMES.values()) == 1
        and (has_documents(path) if path.is_dir() else path.suffix in suffixes() or _is_known(path))
    ]
    names = [path.name for path in found if path.suffix != ".txt" or path.with_suffix(".ann") not in found]
    name = the_one(folder, split, names)
    if name and not exact and name not in aliases:
        warn_once("%s: %s is taken for the split %s.", str(folder), name, split)
    return folder / name if name else None


def _tell_others(folder: Path) -> None:
    """Log the files of a folder of splits that look like data and are none of its splits."""
    try:
        splits = {find(folder, split) for split in SPLIT_NAMES}
    except NerError:  # several can be a split: who reads that one is told
        return
    pairs = {one for path in splits if path and path.is_file() for one in standoff.pair_of(path) or ()}
    texts = {path.with_suffix(".ann") for path in splits if path} | pairs | splits
    others = [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_file() and path not in texts and not path.name.startswith(HIDDEN)
        and (path.suffix in PACKED or (path.suffix in suffixes() and _is_known(path) and not _says_no_text(path)))
        and not {*_PARTS.split(path.name.lower())} & PREDICTED
    ]  # fmt: skip
    if others:
        what = "%s: not read: %s. The file of a split is called train, dev or test, and is not packed."
        warn_once(what, str(folder), join_names(others, 20))


def _says_no_text(path: Path) -> bool:
    """Whether this is JSON of which no row has a text: names of labels, a configuration."""
    texts = {*KEYS["text"], *doccano.LISTS, *tools.CHATS, "instruction", "data"}
    head = b"".join(islice(lines_of(path), 100))
    rows = [row for row in islice(values_in(head), 100) if isinstance(row, (list, dict))]
    return bool(rows) and not any(isinstance(row, list) or texts.intersection(row) for row in rows)


def only_file(given: Path) -> Path | None:
    """The only file with data in a folder that has no splits; None for a data set of any other kind.

    Of tokens and tags in two files it is that of the tokens. Files that cannot be read are logged. Raises `NerError`
    if there are several, or none.
    """
    folder = given.expanduser()
    if not folder.is_dir() or has_documents(folder) or hugging_face.is_folder(folder):
        return None
    if any(find(folder, split) for split in ("train", "dev", "test")):
        return None
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(HIDDEN))
    paths = [path for path in files if path.suffix in suffixes()]
    names = list(dict.fromkeys((standoff.pair_of(path) or [path])[0].name for path in paths))
    known = [name for name in names if _is_known(folder / name)]
    taken = known if len(known) == 1 else names
    if len(taken) != 1:
        what = "cannot tell which file to train on" if names else "holds no file of annotated sentences"
        remedy = "give the file itself, or name the files of a folder train.jsonl, dev.jsonl, … (or .bio, .json, …)"
        raise NerError(what, value=names or None, place=str(given), remedy=remedy)
    if others := [name for name in names if name not in taken]:
        log.info("%s: of no known format, ignored: %s", given, join_names(others, 20))
    return given / taken[0]


def _is_known(path: Path) -> bool:
    try:
        detect(path)
    except NerError:
        return False
    return True


def suffixes() -> list[str]:
    return list(dict.fromkeys(suffix for format in FORMATS for suffix in format.SUFFIXES))


def detect(path: Path) -> Any:
    """The format of a file, by its content first. Raises `NerError` if it is none of them.

    The content cannot tell what offsets in rows of {label: surfaces} mean; the name does: half-open in .jsonl (and any
    other), CLUENER's inclusive ones in .json.
    """
    for format in FORMATS:
        if _claims(format, path):
            return format
    _refuse_binary(path)
    lines, size = [], 0
    for line in lines_of(path):  # whole lines, so that the last one can be read
        lines.append(line)
        size += len(line)
        if size > HEAD:
            break
    head = b"".join(lines)
    for format in reversed(FORMATS):
        if hasattr(format, "sniff") and format.sniff(head, path.name):
            return format
    known = "; ".join(format.DESCRIPTION for format in FORMATS)
    raise NerError("unknown format", place=path, remedy=f"give one of: {known}")


def _refuse_binary(path: Path) -> None:
    """Raise `NerError` for what people have beside tables and cannot be read as one."""
    start = b""
    with suppress(OSError):  # `lines_of` reports it
        if path.is_file():  # a pipe cannot be wound back
            with path.open("rb") as file:
                start = file.read(4)
    for magic, (what, remedy) in BINARY.items():
        if start.startswith(magic):
            raise NerError(what, place=path, remedy=remedy)


def written_names(format: Any) -> tuple[str, ...]:
    """What `convert --to` calls a format, or each variant of it; nothing if it cannot be written."""
    return tuple(getattr(format, "VARIANTS", (format.NAME,))) if hasattr(format, "write") else ()


def writers() -> dict[str, Callable[..., None]]:
    """{name: write(path, examples, lose)} of all that can be written."""
    return {
        name: partial(format.write, variant=name) if hasattr(format, "VARIANTS") else format.write
        for format in FORMATS
        for name in written_names(format)
    }


def target_name(path: Path) -> str | None:
    """The name of what a file of this name is to be written as: the first that has its suffix."""
    by_suffix = (names[0] for format in FORMATS if path.suffix in format.SUFFIXES and (names := written_names(format)))
    return path.suffix[1:] if path.suffix[1:] in writers() else next(by_suffix, None)


def describe() -> str:
    """What is read and written, in two sentences, for help texts."""
    return f"Reads {'; '.join(format.DESCRIPTION for format in FORMATS)}. Writes {', '.join(writers())}."
