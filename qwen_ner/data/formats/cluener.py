"""CLUENER2020: its own files to `Example`s, from a local folder or zip, or downloaded once and checked.

In: a split's name and perhaps where the files lie. Out: `Example`s with half-open offsets. The files of CLUENER have
inclusive ends, which nothing behind this module needs to know. Knows nothing of tokens, models or recipes.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...entities import CLUENER, Example, LabelSet, NerError
from .rows import parse, read_bytes

URL = "https://storage.googleapis.com/cluebenchmark/tasks/cluener_public.zip"
SHA256 = "6dcc30e233034ecd91675182db690be187e61c5a3b5e96bf9f6b971ba8f132fa"
ZIP_NAME = "cluener_public.zip"
SPLITS = ("train", "dev", "test")

LIMIT = 50_000_000
"""Bytes; what goes on beyond, downloaded or unpacked, is none of CLUENER: its zip has a million, its train.json two."""

TIMEOUT = 30.0
"""Seconds that the server may be silent."""

logger = logging.getLogger(__name__)


def read_cluener(
    split: str = "train", data_dir: str | Path | None = None, labels: LabelSet | None = CLUENER
) -> list[Example]:
    """One split of CLUENER2020: 10,748 rows in train, 1,343 in dev, 1,345 in test, which has no labels.

    The files are taken from the first of: `data_dir`, the environment's QWEN_NER_DATA (each a folder with train.json,
    dev.json and test.json, a folder with cluener_public.zip, or that zip), the cache (QWEN_NER_CACHE, else
    ~/.cache/qwen_ner). Only where neither of the first two is given are they downloaded into the cache.
    Raises `NerError` where the files cannot be had, `DataError` with every fault in them.
    """
    if split not in SPLITS:
        meant = " (validation is called dev)" if split == "validation" else ""
        raise NerError(f"CLUENER has no split {split!r}{meant}; choose {', '.join(SPLITS)}")
    place = _local(data_dir) or _cached()
    unlabelled = split == "test"
    if (file := place / f"{split}.json").is_file():
        return read_file(file, labels, unlabelled=unlabelled)
    archive = _archive(place)
    if archive is None:
        raise NerError(
            f"{place} holds neither {split}.json nor {ZIP_NAME}; put one there, or unset data_dir to download"
        )
    member = f"{split}.json"
    with _opened(archive) as opened:
        if member not in opened.namelist():
            raise NerError(f"{archive} has no {member} at its top, only {', '.join(opened.namelist())}; fetch {URL}")
        with opened.open(member) as unpacked:
            data = unpacked.read(LIMIT + 1)  # what the archive says of its size may be wrong
        if len(data) > LIMIT:
            raise NerError(f"{archive}: {member} goes on beyond {LIMIT:,} bytes, so it is not CLUENER's; fetch {URL}")
    return parse(data, f"{archive}/{member}", labels, cluener=True, unlabelled=unlabelled)


def read_file(path: str | Path, labels: LabelSet | None = CLUENER, *, unlabelled: bool = False) -> list[Example]:
    """The examples of one file in CLUENER's dialect, rows of `{"text", "label": {label: {surface: [[start, last]]}}}`.

    `unlabelled` accepts a file of which no row has a "label". Raises as `read_cluener` does.
    """
    return parse(read_bytes(path), str(path), labels, cluener=True, unlabelled=unlabelled)


def has_split(split: str, data_dir: str | Path | None = None) -> bool:
    """Whether `read_cluener` would find this split. Downloads nothing: what is not here yet has all three."""
    place = _local(data_dir)
    if split not in SPLITS or place is None:
        return split in SPLITS
    if (place / f"{split}.json").is_file():
        return True
    archive = _archive(place)
    if archive is None:
        return False
    with _opened(archive) as opened:
        return f"{split}.json" in opened.namelist()


def download(url: str, path: Path, sha256: str, limit: int = LIMIT) -> None:
    """Put the file at `url` (http or https) at `path`, whole and with this SHA-256, or raise `NerError`.

    What a broken transfer leaves lies beside it as `.part`, and the next call goes on from there. Processes that want
    the same file wait for each other; a file that is there already and right is left alone.
    """
    from filelock import FileLock

    if _digest(path) == sha256:
        return
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if _digest(path) == sha256:
                return
            if path.is_file():
                logger.warning("%s is damaged; it is downloaded again", path)
            if _digest(part) != sha256:
                logger.info("downloading %s to %s", url, path)
                _transfer(url, part, limit)
            if (found := _digest(part)) != sha256:
                part.unlink()
                raise NerError(
                    f"{url} gave a file with SHA-256 {found}, not {sha256}; run it again, or {_by_hand(url)}"
                )
            os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise NerError(
            f"{url} cannot be downloaded to {path} ({error}); "
            f"run it again to go on where it stopped, or {_by_hand(url)}"
        ) from error


def _transfer(url: str, part: Path, limit: int) -> None:
    """Append to `part` what it lacks of the file at `url`; where the server will not go on there, write it anew."""
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    size = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "qwen-ner", "Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not size:
            raise
        part.unlink()
        _transfer(url, part, limit)
        return
    with response:
        if response.status != 206:
            size = 0
        elif size and not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
            part.unlink()
            _transfer(url, part, limit)
            return
        total = None if response.length is None else size + response.length
        bar = tqdm(total=total, initial=size, unit="B", unit_scale=True, desc=part.stem, disable=None)
        with part.open("ab" if size else "wb") as file, bar:
            while size <= limit and (block := response.read(65_536)):
                size += file.write(block)
                bar.update(len(block))
    if size > limit:
        part.unlink()
        raise NerError(f"{url} goes on beyond {limit:,} bytes, so it is not the file expected; {_by_hand(url)}")
    if total is not None and size < total:
        raise ConnectionError(f"cut at {size:,} of {total:,} bytes")


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https and nothing else, wherever a redirect may point; `urllib`'s own would open ftp too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _by_hand(url: str) -> str:
    return f"fetch {url} by other means and name its place with data_dir or QWEN_NER_DATA"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _local(data_dir: str | Path | None) -> Path | None:
    """The place that the user named; None where they named none, `NerError` where it is not there."""
    name, given = ("data_dir", data_dir) if data_dir is not None else ("QWEN_NER_DATA", os.environ.get("QWEN_NER_DATA"))
    if data_dir is None and not given:
        return None
    place = Path(given or "").expanduser()
    if not place.exists():
        raise NerError(f"{name} is {str(given)!r}, which does not exist; name CLUENER's folder or zip, or unset it")
    return place


def _cached() -> Path:
    cache = os.environ.get("QWEN_NER_CACHE") or Path.home() / ".cache" / "qwen_ner"
    path = Path(cache).expanduser() / ZIP_NAME
    download(URL, path, SHA256)
    return path


def _archive(place: Path) -> Path | None:
    archive = place if place.is_file() else place / ZIP_NAME
    return archive if archive.is_file() else None


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError) as error:  # RuntimeError: an encrypted zip
        raise NerError(f"{archive} cannot be read as a zip ({error}); fetch it again from {URL}") from error
