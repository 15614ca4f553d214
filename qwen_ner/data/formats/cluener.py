"""CLUENER2020: its own JSON, whose ends are inclusive, and its files, from a local folder or zip or downloaded once.

In: rows of `{"text", "label": {label: {surface: [[start, last]]}}}`; a split's name and perhaps where the files are.
Out: `Example`s with half-open offsets; rows for examples. Knows nothing of tokens, models or recipes.
"""

from __future__ import annotations

import logging
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...entities import Entity, Example, LabelSet, NerError
from .errors import Note, ignore
from .lines import lines_of
from .mentions import EntityReader, without_scores
from .rows import lacks_entities, read_rows, rows_in, write_rows

log = logging.getLogger(__name__)

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
    """By the name, unless the first row has "entities", which no row of CLUENER has."""
    return name.endswith(SUFFIXES) and "entities" not in next(rows_in(head), {})


def read(
    path: str | Path, labels: LabelSet | None = None, *, unlabelled: bool = False, **options: Any
) -> Iterator[Example]:
    """`path` may lead into a zip. `unlabelled` accepts a file of which no row has a "label"."""
    path, labelled = Path(path), None if unlabelled else True

    def entities_of(row: dict[str, Any], reader: EntityReader) -> Iterable[Entity]:
        nonlocal labelled
        labelled = "label" in row if labelled is None else labelled  # the first row decides
        if labelled == ("label" in row):
            return replace(reader, inclusive=True).from_label(row["label"]) if labelled else ()
        mixed = 'the row has a "label" and the first row has none; label all rows of the file or none'
        reader.report(lacks_entities(row, "label", {}) if labelled else mixed)
        return ()

    lines: Callable[[], Iterable[bytes]] = partial(_unpack if path.parent.is_file() else lines_of, path)
    return read_rows(lines, path, labels, entities_of, **options)


def write(path: Path, examples: Iterable[Example], lose: Note = ignore) -> None:
    write_rows(path, (_as_row(example, at) for at, example in enumerate(without_scores(examples, lose), start=1)))


def _as_row(example: Example, number: int) -> dict[str, Any]:
    """The row that is read back equal; an id that is the number of the line is left out, as in CLUENER's own files."""
    row = {"text": example.text, "label": inclusive_spans(example.entities)}
    return row if example.id == str(number) else row | {"id": example.id}


def inclusive_spans(entities: Iterable[Entity]) -> dict[str, dict[str, list[list[int]]]]:
    """{label: {surface: [[start, last], …]}}, in the order of the entities."""
    tree: dict[str, dict[str, list[list[int]]]] = {}
    for entity in entities:
        tree.setdefault(entity.label, {}).setdefault(entity.text, []).append([entity.start, entity.end - 1])
    return tree


def locate(split: str, data_dir: str | Path | None = None) -> Path:
    """The file of a split of CLUENER2020: 10,748 rows in train, 1,343 in dev, 1,345 in test, which has no labels.

    It is taken from the first of: `data_dir`, the environment's QWEN_NER_DATA (each a folder with train.json, dev.json
    and test.json, a folder with cluener_public.zip, or that zip), the cache (QWEN_NER_CACHE, else ~/.cache/qwen_ner).
    The zip is downloaded into the cache only if neither of the first two is given. The path of a file in a zip is
    `…/cluener_public.zip/dev.json`. Raises `NerError` if the file is not available.
    """
    place = _local(data_dir)
    if place is None:
        cache = os.environ.get("QWEN_NER_CACHE") or Path.home() / ".cache" / "qwen_ner"
        place = Path(cache).expanduser() / ZIP_NAME
        download(URL, place, SHA256)
    if (found := _find(place, f"{split}.json")) is None:
        remedy = "put one there, or unset data_dir to download it"
        raise NerError(f"neither {split}.json nor a {ZIP_NAME} with it is there", place=place, remedy=remedy)
    return found


def has_split(split: str, data_dir: str | Path | None = None) -> bool:
    """Whether `locate` would find this split. Downloads nothing: the official zip has all three."""
    place = _local(data_dir)
    return split in SPLITS and (place is None or _find(place, f"{split}.json") is not None)


def download(url: str, path: Path, sha256: str) -> None:
    """Put the file at `url` at `path`, whole and with this SHA-256. A file that is there and right is left alone.

    Raises `NerError` with what to do offline.
    """
    import pooch  # type: ignore[import-untyped, unused-ignore]

    pooch.get_logger().setLevel("ERROR")  # its words are about code; ours are below
    if not path.is_file() or pooch.file_hash(str(path)) != sha256:
        log.info("downloading %s to %s", url, path)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=sys.stderr.isatty())
    try:
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=downloader)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        remedy = "run it again, or fetch the file by other means and name its place with data_dir or QWEN_NER_DATA"
        raise NerError(f"cannot download {url} ({error})", place=path, remedy=remedy) from error


def _local(data_dir: str | Path | None) -> Path | None:
    """The place that the user named, None if they named none. Raises `NerError` if it does not exist."""
    given = data_dir if data_dir is not None else os.environ.get("QWEN_NER_DATA") or None
    if given is not None and not Path(given).expanduser().exists():
        name, remedy = "QWEN_NER_DATA" if data_dir is None else "data_dir", "name CLUENER's folder or zip, or unset it"
        raise NerError("no such folder or file", value=str(given), place=name, remedy=remedy)
    return None if given is None else Path(given).expanduser()


def _find(place: Path, name: str) -> Path | None:
    """A file in a folder, or in the zip that is there."""
    if (place / name).is_file():
        return place / name
    archive = place if place.is_file() else place / ZIP_NAME
    if not archive.is_file():
        return None
    with _open_zip(archive) as opened:
        return archive / name if name in opened.namelist() else None


def _unpack(path: Path) -> list[bytes]:
    """The lines of a file in a zip, in memory: nothing is unpacked to the disk."""
    with _open_zip(path.parent) as opened, opened.open(path.name) as unpacked:
        data = unpacked.read(LIMIT + 1)  # the size that the archive states may be wrong
    if len(data) > LIMIT:
        fault = f"{path.name} is larger than {LIMIT:,} bytes, so it is not CLUENER's"
        raise NerError(fault, place=path.parent, remedy=f"fetch {URL}")
    return data.split(b"\n")


@contextmanager
def _open_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError) as error:  # RuntimeError: an encrypted zip
        remedy = f"fetch it again from {URL}"
        raise NerError(f"cannot be read as a zip ({error})", place=archive, remedy=remedy) from error
