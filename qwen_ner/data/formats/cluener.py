"""CLUENER2020: its own JSON, whose ends are inclusive, and its files, from a local folder or zip or downloaded once.

In: rows of `{"text", "label": {label: {surface: [[start, last]]}}}`; a split's name and perhaps where the files are.
Out: `Example`s with half-open offsets; rows for examples. Knows nothing of tokens, models or recipes.
"""

from __future__ import annotations

import os
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...entities import CLUENER, Entity, Example, LabelSet, NerError
from .errors import Note, ignore, quote
from .mentions import EntityReader, without_scores
from .rows import EntitiesOf, lines_of, read_rows, write_rows

NAME = "cluener"
SUFFIXES = (".json",)
DESCRIPTION = "CLUENER's JSON with inclusive offsets"

URL = "https://storage.googleapis.com/cluebenchmark/tasks/cluener_public.zip"
SHA256 = "6dcc30e233034ecd91675182db690be187e61c5a3b5e96bf9f6b971ba8f132fa"
ZIP_NAME = "cluener_public.zip"
SPLITS = ("train", "dev", "test")

LIMIT = 50_000_000
"""Bytes of an unpacked file; CLUENER's train.json has two million."""

TIMEOUT = 30
"""Seconds to wait for the server."""


def sniff(head: bytes, name: str) -> bool:
    return name.endswith(SUFFIXES)


def read(
    path: str | Path, labels: LabelSet | None = None, *, unlabelled: bool = False, note: Note = ignore, **_: Any
) -> Iterator[Example]:
    """`unlabelled` accepts a file of which no row has a "label", as a test set. Ids are counted from 0."""
    return _read_lines(lines_of(path), path, labels, unlabelled, note)


def _read_lines(
    lines: Iterable[bytes], path: str | Path, labels: LabelSet | None, unlabelled: bool, note: Note = ignore
) -> Iterator[Example]:
    return read_rows(lines, path, labels, _labelled_or_not() if unlabelled else _entities_of, number_from=0, note=note)


def _entities_of(row: dict[str, Any], reader: EntityReader) -> Iterable[Entity]:
    if "label" not in row:
        reader.report(f'{quote(row)} lacks "label"; a sentence without entities has "label": {{}}')
        return ()
    return replace(reader, inclusive=True).from_label(row["label"])


def _labelled_or_not() -> EntitiesOf:
    """Reads the labels of all rows, or of none: the first row decides."""
    labelled: bool | None = None

    def entities_of(row: dict[str, Any], reader: EntityReader) -> Iterable[Entity]:
        nonlocal labelled
        labelled = "label" in row if labelled is None else labelled
        if labelled:
            return _entities_of(row, reader)
        if "label" in row:
            reader.report('the row has a "label" and the first row has none; label all rows of the file or none')
        return ()

    return entities_of


def write(path: Path, examples: Iterable[Example], lose: Note = ignore) -> None:
    write_rows(path, (_as_row(example, at) for at, example in enumerate(without_scores(examples, lose))))


def _as_row(example: Example, number: int) -> dict[str, Any]:
    """The row that is read back equal; an id that only counts rows is left out, as in CLUENER's own files."""
    row = {"text": example.text, "label": inclusive_spans(example.entities)}
    return row if example.id == str(number) else row | {"id": example.id}


def inclusive_spans(entities: Iterable[Entity]) -> dict[str, dict[str, list[list[int]]]]:
    """{label: {surface: [[start, last], …]}}, in the order of the entities."""
    tree: dict[str, dict[str, list[list[int]]]] = {}
    for entity in entities:
        tree.setdefault(entity.label, {}).setdefault(entity.text, []).append([entity.start, entity.end - 1])
    return tree


def read_cluener(
    split: str = "train", data_dir: str | Path | None = None, labels: LabelSet | None = CLUENER
) -> list[Example]:
    """One split of CLUENER2020: 10,748 rows in train, 1,343 in dev, 1,345 in test, which has no labels.

    The files are taken from the first of: `data_dir`, the environment's QWEN_NER_DATA (each a folder with train.json,
    dev.json and test.json, a folder with cluener_public.zip, or that zip), the cache (QWEN_NER_CACHE, else
    ~/.cache/qwen_ner). They are downloaded into the cache only if neither of the first two is given.
    Raises `NerError` if the files are not available, `DataError` with every fault in them.
    """
    if split not in SPLITS:
        meant = " (validation is called dev)" if split == "validation" else ""
        raise NerError(f"CLUENER has no split {split!r}{meant}", remedy=f"choose {', '.join(SPLITS)}")
    place, member = _local(data_dir) or _cached(), f"{split}.json"
    if (file := place / member).is_file():
        return list(read(file, labels, unlabelled=split == "test"))
    archive = _archive(place)
    if archive is None:
        raise NerError(
            f"neither {member} nor {ZIP_NAME} is there",
            place=place,
            remedy="put one there, or unset data_dir to download it",
        )
    data = _unpack(archive, member)
    return list(_read_lines(data.split(b"\n"), f"{archive}/{member}", labels, split == "test"))


def has_split(split: str, data_dir: str | Path | None = None) -> bool:
    """Whether `read_cluener` would find this split. Downloads nothing: the official zip has all three."""
    place = _local(data_dir)
    if split not in SPLITS or place is None:
        return split in SPLITS
    if (place / f"{split}.json").is_file():
        return True
    archive = _archive(place)
    if archive is None:
        return False
    with _open_zip(archive) as opened:
        return f"{split}.json" in opened.namelist()


def download(url: str, path: Path, sha256: str) -> None:
    """Put the file at `url` at `path`, whole and with this SHA-256. A file that is there and right is left alone.

    Raises `NerError` with what to do offline.
    """
    import pooch  # type: ignore[import-untyped, unused-ignore]

    pooch.get_logger().setLevel("ERROR")
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=sys.stderr.isatty())
    try:
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=downloader)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        raise NerError(
            f"cannot download {url} ({error})",
            place=path,
            remedy="run it again, or fetch the file by other means and name its place with data_dir or QWEN_NER_DATA",
        ) from error


def _local(data_dir: str | Path | None) -> Path | None:
    """The place that the user named, None if they named none. Raises `NerError` if it does not exist."""
    name, given = ("data_dir", data_dir) if data_dir is not None else ("QWEN_NER_DATA", os.environ.get("QWEN_NER_DATA"))
    if data_dir is None and not given:
        return None
    place = Path(given or "").expanduser()
    if not place.exists():
        raise NerError(
            "no such folder or file", value=str(given), place=name, remedy="name CLUENER's folder or zip, or unset it"
        )
    return place


def _cached() -> Path:
    cache = os.environ.get("QWEN_NER_CACHE") or Path.home() / ".cache" / "qwen_ner"
    path = Path(cache).expanduser() / ZIP_NAME
    download(URL, path, SHA256)
    return path


def _archive(place: Path) -> Path | None:
    archive = place if place.is_file() else place / ZIP_NAME
    return archive if archive.is_file() else None


def _unpack(archive: Path, member: str) -> bytes:
    """A file at the top of the zip, in memory: nothing is unpacked to the disk."""
    with _open_zip(archive) as opened:
        if member not in opened.namelist():
            raise NerError(
                f"no {member} at the top of the zip, only {', '.join(opened.namelist())}",
                place=archive,
                remedy=f"fetch {URL}",
            )
        with opened.open(member) as unpacked:
            data = unpacked.read(LIMIT + 1)  # the size that the archive states may be wrong
    if len(data) > LIMIT:
        raise NerError(
            f"{member} is larger than {LIMIT:,} bytes, so it is not CLUENER's", place=archive, remedy=f"fetch {URL}"
        )
    return data


@contextmanager
def _open_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError) as error:  # RuntimeError: an encrypted zip
        raise NerError(
            f"cannot be read as a zip ({error})", place=archive, remedy=f"fetch it again from {URL}"
        ) from error
