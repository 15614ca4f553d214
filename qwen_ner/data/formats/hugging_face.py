"""Data sets of the Hugging Face `datasets` library with tokens and tags; Parquet files for them.

In: a folder that `save_to_disk` wrote, a folder or file of Parquet or JSON, or an id on the Hub (`owner/name`, or
`owner/name:configuration`), with the columns `tokens` and `ner_tags`. Out: `Example`s; a Parquet file whose `ner_tags`
carry their names. `tagging` says how tokens become a text. Knows nothing of other formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...columns import first_line
from ...entities import Example, LabelSet, NerError
from ...files import replace_attributes
from ...reach import silence, unreachable
from .errors import Faults, LineFault, Note, ignore, quote
from .lines import decode_line, lines_of
from .mentions import without_scores
from .rows import rows_in
from .tagged.schemes import BIO2
from .tagged.tagging import Tagging, TagReader, tags_for

if TYPE_CHECKING:
    from datasets import Dataset

NAME = "parquet"
SUFFIXES = (".parquet",)
DESCRIPTION = "Hugging Face data sets with tokens and ner_tags (Parquet, JSON, save_to_disk, Hub)"

TOKENS, TAGS = "tokens", "ner_tags"
OTHERS = {TOKENS: ("words", "chars", "characters", "text"), TAGS: ("tags", "labels", "ner", "label", "bio_tags")}
"""What the columns are called elsewhere."""

SAMPLE = 1_000
"""Rows that tell whether the tokens are characters or words."""

SPLIT_NAMES = {
    "train": ("train", "training", "训练集"),
    "dev": ("dev", "validation", "valid", "val", "eval", "evaluation", "development", "验证集", "开发集"),
    "test": ("test", "testing", "测试集"),
}
"""What other data sets call the splits of this project."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def sniff(head: bytes, name: str) -> bool:
    first = next(rows_in(head), {})
    lists = [name for name in (TOKENS, *OTHERS[TOKENS]) if isinstance(first.get(name), list)]
    tagged = isinstance(first.get(TAGS), list)
    return name.endswith(SUFFIXES) or bool(lists and (lists == ["text"] or "text" not in first or tagged))


def is_hub_id(name: str) -> bool:
    """Whether this can be the id of a data set on the Hub.

    >>> is_hub_id("unimelb-nlp/wikiann:zh"), is_hub_id("cluener")
    (True, False)
    """
    return _HUB_ID.fullmatch(name) is not None


def is_folder(path: Path) -> bool:
    """Whether this folder was written by `save_to_disk`, or holds Parquet files."""
    saved = (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()
    return saved or any(path.glob("*.parquet")) or any(path.glob("*/*.parquet"))


def the_one(place: object, split: str, names: list[Any]) -> Any:
    """The only one of the names that can stand for a split, None if there is none. Raises `NerError` for several."""
    if len(names) > 1:
        remedy = "keep one of them under such a name"
        raise NerError(f"several can be the split {split}", value=[*map(str, names)], place=place, remedy=remedy)
    return names[0] if names else None


def split_names(source: str) -> list[str]:
    """The names of the splits; none for a single file or a data set saved without splits. Asks the Hub for an id."""
    import datasets

    path = Path(source).expanduser()
    if path.is_file():
        return []
    if not _is_saved(path):
        return list(_load(source, lambda: datasets.get_dataset_split_names(*_named(source))))
    saved = _load(source, lambda: datasets.load_from_disk(str(path)))
    return list(saved) if isinstance(saved, datasets.DatasetDict) else []


def _is_saved(path: Path) -> bool:
    """Whether this is a folder that `save_to_disk` wrote; `load_dataset` loads everything else."""
    return path.is_dir() and not any(path.rglob("*.parquet"))


def _named(source: str) -> tuple[str, str | None]:
    """What `load_dataset` calls a folder, or the id and configuration of a data set on the Hub."""
    if Path(source).expanduser().is_dir():
        return str(Path(source).expanduser()), None
    name, _, config = source.partition(":")
    return name, config or None


@dataclass(frozen=True)
class TokenSet:
    """Rows of tokens and tags, and how they are written. `names` are those of the tags if rows hold numbers."""

    source: str
    split: str
    rows: Dataset
    names: tuple[str, ...]
    tagging: Tagging

    def __str__(self) -> str:
        return f"Hugging Face data set, {self.tagging.scheme.name}, one {self.tagging.unit} a token"


def survey(source: str, split: str | None = None) -> TokenSet:
    """Open a split (`dev` finds `validation` too; None for what has no splits) and look through its tags once.

    Raises `NerError` if it cannot be loaded or lacks the columns.
    """
    rows = _open(source, split)
    for column, others in OTHERS.items():
        found = [name for name in others if name in rows.column_names and hasattr(rows.features[name], "feature")]
        if column not in rows.column_names and len(found) == 1:
            rows = rows.rename_column(found[0], column)
    features = rows.features
    if missing := {TOKENS, TAGS} - features.keys():
        what = f"no column {' and '.join(sorted(missing))}, only {', '.join(features)}"
        remedy = f"rename the columns with the tokens and their tags to {TOKENS} and {TAGS}"
        raise NerError(what, place=source, remedy=remedy)
    tags = getattr(features[TAGS], "feature", features[TAGS])
    names = tuple(getattr(tags, "names", None) or ())
    if not names and getattr(tags, "dtype", None) != "string":
        remedy = "give it the type List(ClassLabel(names=[…])), or write the tags as strings"
        raise NerError(f"{TAGS} is {features[TAGS]}, numbers without names", place=source, remedy=remedy)
    sample = ([str(token) for token in tokens or ()] for tokens in islice(rows[TOKENS], SAMPLE))
    tagging = Tagging.of(sample, ((_name(tag, names) for tag in row or ()) for row in rows[TAGS]))
    return TokenSet(source, split or "", rows, names, tagging)


def _open(source: str, split: str | None) -> Dataset:
    import datasets

    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix == ".parquet":
            return _load(source, lambda: datasets.load_dataset("parquet", data_files=str(path), split="train"))
        return _load(source, lambda: _of_json(path))
    splits = split_names(source)
    wanted = the_one(source, split or "", [name for name in SPLIT_NAMES.get(split or "", (split,)) if name in splits])
    if splits and wanted is None:
        raise NerError("no such split", value=split, place=source, remedy=f"choose one of {', '.join(splits)}")
    if _is_saved(path):  # a split is a data set in a folder of its own
        return _load(source, lambda: datasets.load_from_disk(str(path / (wanted or ""))))
    return _load(source, lambda: datasets.load_dataset(*_named(source), split=wanted))


def _of_json(path: Path) -> Dataset:
    """The rows of a JSON file; `datasets` reads UTF-8, without a word on bytes that are not."""
    import datasets

    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with copy.open("wb") as file:
            for number, line in enumerate(lines_of(path), start=1):
                try:
                    file.write(decode_line(line).encode())
                except LineFault as fault:
                    raise NerError(fault.what, place=f"{path}:{number}", remedy=fault.remedy) from fault
        if copy.stat().st_size == path.stat().st_size:  # it is UTF-8; then `datasets` may cache it
            return datasets.load_dataset("json", data_files=str(path), split="train")
        options = {"cache_dir": folder, "keep_in_memory": True}
        return datasets.load_dataset("json", data_files=str(copy), split="train", **options)


def _load(source: str, load: Any) -> Any:
    """What `load` returns, offline if `source` is on a Hub that does not answer. It may raise any error."""
    import datasets
    from huggingface_hub import constants

    asks = not Path(source).expanduser().exists() and not constants.is_offline_mode()
    silent = silence(constants.ENDPOINT) if asks else None
    hubs = (constants, datasets.config) if silent else ()  # `datasets` would try for minutes to reach a silent one
    try:
        with ExitStack() as stack:
            for hub in hubs:
                stack.enter_context(replace_attributes(hub, HF_HUB_OFFLINE=True))
            return load()
    except NerError:
        raise
    except Exception as error:
        if silent:
            raise unreachable(source, constants.ENDPOINT, silent) from error
        what = f"cannot be loaded as a Hugging Face data set, from {Path.cwd()} or the Hub ({first_line(error)})"
        remedy = "give a file or folder of Parquet or JSON, or what save_to_disk wrote; or check the id and the network"
        raise NerError(what, place=source, remedy=remedy) from error


def _name(tag: object, names: tuple[str, ...]) -> str:
    return names[tag] if names and isinstance(tag, int) and 0 <= tag < len(names) else str(tag)


def read(
    source: str | Path,
    labels: LabelSet | None = None,
    *,
    layout: TokenSet | None = None,
    repair: bool = False,
    note: Note = ignore,
    warn: Note = ignore,
    **_: Any,
) -> Iterator[Example]:
    """The examples, one at a time; ids are those of a column `id`, else row numbers from 1.

    Raises `DataError` with each faulty row, or `NerError` if there is no row, at the end; `repair` as for `bio.read`.
    """
    found = layout or survey(str(source))
    where = f"{Path(found.source).name}/{found.split}".rstrip("/")
    faults = Faults(found.source, "row")
    reader = TagReader(found.tagging, labels, faults, repair, warn)
    for column in found.rows.features.keys() - {TOKENS, TAGS, "id"}:
        note(f"the column {quote(column)}", where)
    for number, row in enumerate(found.rows, start=1):
        names = [_name(tag, found.names) for tag in row[TAGS] or ()]
        if example := reader.sentence(f"{where}:{number}", row[TOKENS] or (), names, row.get("id")):
            yield example
    faults.finish("no rows", "give it some")


def write(path: Path, examples: Iterable[Example], lose: Note = ignore) -> None:
    """Write `id`, `tokens` (the characters of the text) and `ner_tags` (BIO2, with their names), in flat memory.

    `datasets.load_dataset` reads the file, or a folder of such files, with the names of the tags. Iterates over
    `examples` twice, first for their labels; `lose` gets what tags cannot hold.
    """
    import datasets
    import pyarrow  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]

    labels = sorted({entity.label for example in examples for entity in example.entities})
    names = ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]
    number = {name: at for at, name in enumerate(names)}
    string, tags = datasets.Value("string"), datasets.ClassLabel(names=names)
    features = datasets.Features({"id": string, TOKENS: datasets.List(string), TAGS: datasets.List(tags)})
    schema = features.arrow_schema
    rows = (
        {"id": example.id, TOKENS: list(example.text), TAGS: [number[tag] for tag in tags_for(example, BIO2, lose)]}
        for example in without_scores(examples, lose)
    )
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, 1_000)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
