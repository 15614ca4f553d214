"""Annotated data by name and place: the splits of a data set as `Example`s, and texts for prediction.

In: a named data set, a file, a folder of splits or an id on the Hub, of any format of `formats.registry`; streams of
byte lines. Out: `Example`s, `TextRow`s, or one `DataError` with every fault of a file. Offsets are half-open. Knows
nothing of tokens, models or recipes.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..columns import join_names
from ..entities import Example, LabelSet, NerError
from .formats import cluener, jsonl
from .formats.errors import DataError as DataError
from .formats.errors import LineFault, nearest
from .formats.hugging_face import SPLIT_NAMES, is_folder, is_hub_id, split_names
from .formats.jsonl import write_jsonl as write_jsonl
from .formats.lines import decode_line, number_lines
from .formats.registry import Source, find, open_source, suffixes
from .formats.rows import identity_of, json_object, text_of
from .notes import Watch

log_once = cache(logging.getLogger(__name__).info)  # data with faults are read again to repair them

NAMED = ("cluener", "sample")
"""The data sets that have a name. A folder of the same name is `./sample`."""

SAMPLE = Path(__file__).with_name("sample")


def labels_of(examples: Iterable[Example]) -> LabelSet:
    """The labels that occur, sorted by name. Raises `NerError` if none does.

    >>> from qwen_ner.entities import Entity
    >>> labels_of([Example("0", "三星北京", (Entity("company", "三星", 0, 2), Entity("address", "北京", 2, 4)))]).names
    ('address', 'company')
    """
    names = sorted({entity.label for example in examples for entity in example.entities})
    if not names:
        raise NerError("no row has an entity, so there are no labels", remedy="name them under `labels`")
    return LabelSet.of(names)


def check_labels(examples: Iterable[Example], labels: LabelSet) -> None:
    """Raise `NerError` if `examples` have labels that are not among `labels`, which are those of train."""
    new = [(e.source, sorted({entity.label for entity in e.entities} - {*labels.names})) for e in examples]
    if rows := [source for source, names in new if names]:
        what = f"a label that no row of train has, which has {join_names(labels.names, 20)}"
        names = join_names(sorted({name for _, names in new for name in names}), 20)
        remedy = "list every label of the data set under `labels:` in the recipe, or correct these rows"
        raise NerError(what, value=names, place=join_names(rows), remedy=remedy)


@dataclass(frozen=True, slots=True)
class TextRow:
    """One text to predict on; if it cannot be read, `text` is None and `fault` says why."""

    id: str
    text: str | None
    source: str
    fault: str | None = None


TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".parquet", ".arrow")
JSON_START = re.compile(r"""[\[{\s]*\{\s*(["'])\w*\1\s*:|\[[\[\s]*"|[\[{\s]+[\]}]*$""")
"""The beginning of an object with a key or of an array of strings, or brackets alone."""


def read_texts(lines: Iterable[bytes], source: str) -> Iterator[TextRow]:
    """The texts of a stream of lines, one at a time as they arrive, in order; blank lines are skipped.

    JSONL if `source` ends in .jsonl or the first line is an object with a "text", else one text a line. A bad line
    comes back with its fault. The id is that of the row, else the line number; ids are not compared. Raises `NerError`
    before the first text for what is neither: a table, or JSON that is an array or extends over several lines.

    >>> for row in read_texts([b'{"id": "a", "text": "hello"}', b'{"id": "b"}'], "in.jsonl"):
    ...     print(row)
    TextRow(id='a', text='hello', source='in.jsonl:1', fault=None)
    TextRow(id='b', text=None, source='in.jsonl:2', fault='in.jsonl:2: {"id": "b"} lacks "text"; give it its sentence')
    """
    if source.lower().endswith(TABLES):
        remedy = f"convert it first: qwen-ner convert {source} {Path(source).stem}.jsonl"
        if source.lower().endswith(".xls"):
            remedy = "save it as .xlsx, and convert that: qwen-ner convert"
        raise NerError("a table is not read", place=source, remedy=remedy)
    read = json_object if source.endswith(".jsonl") else None
    for line, raw in number_lines(lines):
        if raw.decode(errors="replace").strip():
            read = read or (json_object if _is_row(raw, source) else _plain)
            yield _text_row(raw, str(line), f"{source}:{line}", read)


def given_texts(texts: Iterable[str], source: str) -> Iterator[TextRow]:
    """A row for each of `texts` as it stands, also for a blank one; its id is its number.

    >>> next(given_texts(['{"text": "a"}'], "--text"))
    TextRow(id='1', text='{"text": "a"}', source='--text:1', fault=None)
    """
    for number, text in enumerate(texts, start=1):
        yield _text_row(text.encode("utf-8", "surrogateescape"), str(number), f"{source}:{number}", _plain)


def _text_row(raw: bytes, number: str, place: str, read: Callable[[bytes], dict[str, Any]]) -> TextRow:
    try:
        return text_row(read(raw), number, place)
    except LineFault as error:
        return TextRow(number, None, place, f"{place}: {error}")


def text_row(row: dict[str, Any], number: str, place: str) -> TextRow:
    """The text of a row, with its id, or else its `number`."""
    faults = list[str]()
    identity, text = identity_of(row, number, faults.append), text_of(row, faults.append)
    return TextRow(identity, None if faults else text, place, f"{place}: {'; '.join(faults)}" if faults else None)


def _plain(raw: bytes) -> dict[str, Any]:
    return {"text": decode_line(raw)}


def _is_row(first: bytes, source: str) -> bool:
    """Whether the first line is a row with a text, rather than a text. Raises `NerError` if it is other JSON."""
    line = first.decode(errors="replace").strip()
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and "text" in value:
        return True
    if isinstance(value, dict) or JSON_START.match(line):
        program = 'jq -c "if type==\\"array\\" then .[] else . end" IN > OUT.jsonl'
        remedy = f'give one {{"text": …}} a line, as `{program}` writes'
        raise NerError('starts with JSON that is no object with a "text"', value=line[:40], place=source, remedy=remedy)
    return False


def read_dataset(
    dataset: str,
    split: str,
    *,
    labels: LabelSet | None = None,
    data_dir: str | Path | None = None,
    repair: bool = False,
    watch: Watch | None = None,
) -> list[Example]:
    """The examples of one split of a data set, which is

    - `cluener`: train, dev or test, from `data_dir` or as `formats.cluener.locate` finds it,
    - `sample`: the small data set that ships with the package,
    - a folder with a file a split, named after it (`dev` may be called `validation`, `valid`, …), of any format
      of `formats.registry`: `{split}.jsonl`, `{split}.json`, `{split}.bio`, …,
    - a single such file. It is one split, whatever `split` says,
    - a Hugging Face data set with tokens and ner_tags: a folder that `save_to_disk` wrote, or `owner/name` on the Hub.

    A format that the name of the file does not tell is logged. So is, unless `watch` gets it, what is read otherwise
    than it is written (offsets in UTF-16 units, spans with outer white space) and what looks wrong. `repair` reads tags
    that are out of order as conlleval does, which counts among these. Raises `NerError` if there is no such data set or
    split, `DataError` for what is wrong in the file.
    """
    return list(iter_dataset(dataset, split, labels=labels, data_dir=data_dir, repair=repair, watch=watch))


def iter_dataset(
    dataset: str,
    split: str,
    *,
    labels: LabelSet | None = None,
    data_dir: str | Path | None = None,
    repair: bool = False,
    watch: Watch | None = None,
) -> Iterator[Example]:
    """As `read_dataset`, one example at a time. Raises at the end: what came before is valid only if it does not."""
    source, watching = open_dataset(dataset, split, data_dir), watch or Watch()
    if source.format not in (jsonl, cluener):
        log_once("%s is read as %s", source.path, str(source))
    options = {"unlabelled": split == "test", "keep": watching.keep, "warn": watching.note, "repair": repair}
    yield from watching.examples(source.examples(labels, **options))
    if watch is None:
        watching.log(source.path)


def open_dataset(dataset: str, split: str | None, data_dir: str | Path | None = None) -> Source:
    """A split of a data set, with its format; `split` is None for what has no splits."""
    check_place(dataset, data_dir)
    if dataset in NAMED and split not in cluener.SPLITS:
        remedy = "choose train, dev (the validation split) or test with --split"
        raise NerError("its splits are train, dev and test", value=split, place=dataset, remedy=remedy)
    if dataset == "cluener":
        return Source(str(cluener.locate(str(split), data_dir)), cluener)
    return open_source(str(SAMPLE) if dataset == "sample" else dataset, split)


def read_all(
    dataset: str, *, keep: Iterable[str] | None = None, data_dir: str | Path | None = None, repair: bool = False
) -> dict[str, list[Example]]:
    """The examples of every split that a data set has, {name: examples}, of train, dev and test in this order.

    A single file is one split, under its own name. Rows keep the entities of the labels `keep`, or all; what is left
    out is logged. Raises as `read_dataset` does, also for a folder with none of the splits, and `NerError` if no row
    has one of the labels.
    """
    names = [split for split in cluener.SPLITS if has_split(dataset, split, data_dir)]
    watch = Watch(keep=None if keep is None else frozenset(keep))
    one = not names and Path(dataset).expanduser().is_file()
    read = partial(read_dataset, dataset, data_dir=data_dir, repair=repair, watch=watch)
    splits = {Path(dataset).stem if one else split: read(split) for split in names or ("train",)}
    watch.check_kept()
    watch.log(dataset)
    return splits


def has_split(dataset: str, split: str, data_dir: str | Path | None = None) -> bool:
    """Whether `read_dataset` would find this split as one of its own. Reads no rows and downloads none.

    A single file has no split of its own: if it is trained on, it must not be found again as the dev split. Raises
    `NerError` if there is no such data set.
    """
    check_place(dataset, data_dir)
    if dataset in NAMED:
        return split in cluener.SPLITS if dataset == "sample" else cluener.has_split(split, data_dir)
    path = Path(dataset).expanduser()
    if path.is_dir() and (find(path, split) or not is_folder(path)):
        return find(path, split) is not None
    return bool(set(SPLIT_NAMES.get(split, (split,))) & set(split_names(dataset)))


def is_local(dataset: str) -> bool:
    """Whether this is a file or folder of this machine, and neither one of `NAMED` nor an id on the Hub.

    >>> is_local("sample"), is_local("owner/name"), is_local("./owner/name")
    (False, False, True)
    """
    return dataset not in NAMED and (Path(dataset).expanduser().exists() or not is_hub_id(dataset))


def check_place(dataset: str, data_dir: str | Path | None = None) -> None:
    """Raise `NerError` unless this is a data set: one of `NAMED`, a path, or the id of one on the Hub."""
    if data_dir is not None and dataset != "cluener":
        remedy = "give the path itself as the dataset"
        raise NerError("can only be used with dataset cluener", value=str(data_dir), place="data_dir", remedy=remedy)
    path = Path(dataset).expanduser()
    if path.exists() and not path.is_file() and not path.is_dir():  # data are read several times
        raise NerError("is a pipe or a device", place=dataset, remedy="save the data to a file and give that")
    # Where there is a folder of that name, or it ends as a file of data does, owner/name is a mistyped path.
    a_path = path.parent.is_dir() or path.suffix.lower() in (*TABLES, *suffixes()) or not is_hub_id(dataset)
    if dataset not in NAMED and not path.exists() and a_path:
        remedy = (
            f"give {' or '.join(NAMED)}, a file, a folder with {{split}}.jsonl (or .bio, .json, …), or an id on the "
            f"Hub{nearest(dataset, NAMED)}"
        )
        raise NerError(f"no such data set, nor a file or folder in {Path.cwd()}", place=dataset, remedy=remedy)
