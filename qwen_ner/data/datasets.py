"""Files of annotated sentences: JSON rows to `Example`s and back, texts for prediction, a data set by its name.

In: JSONL files, streams of byte lines, names and places of data sets (the formats of `sources`). Out: `Example`s,
`TextRow`s, or one `DataError` that holds every fault of a file with its line. Offsets are half-open everywhere but in
CLUENER's own files, where the ends are inclusive. Knows nothing of tokens, models or recipes.
"""

from __future__ import annotations

import importlib.resources
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entities import Example, LabelSet, NerError
from ..files import beside
from .formats import cluener
from .formats.errors import DataError, LineFault, nearest
from .formats.hugging_face import SPLIT_NAMES, is_folder, is_hub_id, split_names
from .formats.registry import detect, find, open_source
from .formats.rows import decoded, identity_of, json_object, numbered, parse, read_bytes, text_of

if TYPE_CHECKING:
    from importlib.abc import Traversable  # importlib.resources.abc from Python 3.11 on

__all__ = [
    "DataError",
    "TextRow",
    "has_split",
    "iter_dataset",
    "labels_of",
    "read_all",
    "read_dataset",
    "read_jsonl",
    "read_texts",
    "write_jsonl",
]

log = logging.getLogger(__name__)

NAMED = ("cluener", "sample")
"""The data sets that go by a name. A folder of the same name is reached as `./sample`."""


def read_jsonl(path: str | Path, labels: LabelSet | None = None) -> list[Example]:
    """The examples of a JSONL file, in its order; `labels=None` takes any label.

    A row is one of

        {"text": "三星在北京", "label": {"company": ["三星"], "address": ["北京"]}}
        {"text": "三星在北京", "label": {"company": {"三星": [[0, 2]]}}}
        {"text": "三星在北京", "entities": [{"label": "company", "start": 0, "end": 2}]}

    with half-open offsets, or none: every occurrence is taken, as `codec.ground` does it. It may carry an "id" (by
    default the line number, from 1); an item of "entities" may carry its surface as "text" or "surface", which is
    checked, and a "score". Other keys are not read. Overlapping and nested entities are kept.
    Raises `DataError` with all faults of the file, `NerError` where there is no such file or no row in it.
    """
    return parse(read_bytes(path), str(path), labels)


def labels_of(examples: Iterable[Example]) -> LabelSet:
    """The labels that occur, sorted by name. Raises `NerError` where none does.

    >>> from qwen_ner.entities import Entity
    >>> labels_of([Example("0", "三星北京", (Entity("company", "三星", 0, 2), Entity("address", "北京", 2, 4)))]).names
    ('address', 'company')
    """
    names = sorted({entity.label for example in examples for entity in example.entities})
    if not names:
        raise NerError("no row has an entity, so there are no labels to derive; name them under `labels`")
    return LabelSet.of(names)


def write_jsonl(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as `{"id", "text", "entities"}` rows, which `read_jsonl` reads back equal but for their source.

    The file appears whole or not at all; missing folders are made. Raises `NerError` for what could not be read back:
    an empty text, an id twice, no example at all.
    """
    path = Path(path).expanduser()
    rows = [json.dumps(as_row(example), ensure_ascii=False) + "\n" for example in examples]
    if not rows:
        raise NerError(f"{path} is not written: there is no example to write; give it at least one")
    data = "".join(rows).encode("utf-8", "surrogatepass")
    parse(data, str(path), None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise NerError(f"{path} cannot be written ({error.strerror}); choose another place") from error


@dataclass(frozen=True, slots=True)
class TextRow:
    """One text to predict on, or why there is none: `text` is None exactly where `fault` says what is wrong."""

    id: str
    text: str | None
    source: str
    fault: str | None = None


def read_texts(lines: Iterable[bytes], source: str) -> Iterator[TextRow]:
    """The texts of a stream of lines, one at a time as they arrive, in order; blank lines are skipped.

    JSONL where `source` ends in .jsonl or the first line is an object with a "text", else one text a line. Never raises
    for a bad line: it comes back with its fault. An id is the row's "id", else the line number; ids are not compared.

    >>> for row in read_texts([b'{"id": "a", "text": "hello"}', b'{"id": "b"}'], "in.jsonl"):
    ...     print(row)
    TextRow(id='a', text='hello', source='in.jsonl:1', fault=None)
    TextRow(id='b', text=None, source='in.jsonl:2', fault='in.jsonl:2: {"id": "b"} lacks "text"; give it its sentence')
    """
    is_jsonl: bool | None = True if source.endswith(".jsonl") else None
    for line, raw in numbered(lines):
        if is_jsonl is None:
            is_jsonl = _opens_jsonl(raw)
        place, identity, faults = f"{source}:{line}", str(line), list[str]()
        text: str | None = None
        try:
            row = json_object(raw) if is_jsonl else {"text": decoded(raw)}
            if not is_jsonl and not row["text"].strip():
                continue
            identity = identity_of(row, identity, faults.append)
            text = text_of(row, faults.append)
        except LineFault as error:
            faults.append(str(error))
        yield TextRow(identity, None if faults else text, place, f"{place}: {'; '.join(faults)}" if faults else None)


def read_dataset(
    dataset: str, split: str, *, labels: LabelSet | None = None, data_dir: str | Path | None = None
) -> list[Example]:
    """The examples of one split of a data set, which is

    - `cluener`: train, dev or test, out of `data_dir` or as `data.cluener.read_cluener` finds it,
    - `sample`: the small data set that ships with the package,
    - a folder with a file a split, named by it (`dev` may be called `validation`), of any format that `data.sources`
      knows: `{split}.jsonl`, `{split}.json`, `{split}.bio`, …,
    - a single such file. It is one split, whatever `split` says,
    - a Hugging Face data set with tokens and ner_tags: a folder that `save_to_disk` wrote, or `owner/name` on the Hub.

    A format that the file's name does not promise is logged. Raises `NerError` where there is no such data set or
    split, `DataError` for what is wrong in the file.
    """
    return list(iter_dataset(dataset, split, labels=labels, data_dir=data_dir))


def iter_dataset(
    dataset: str, split: str, *, labels: LabelSet | None = None, data_dir: str | Path | None = None
) -> Iterator[Example]:
    """As `read_dataset`, one example at a time. It raises `DataError` at the end: what came until then is void."""
    kind = check_place(dataset, data_dir)
    if kind == "cluener":
        return iter(cluener.read_cluener(split, data_dir, labels))
    if kind == "sample":
        files = _sample()
        if split not in files:
            raise NerError(f"the sample has no split {split!r}; it has {', '.join(files)}")
        return iter(parse(files[split].read_bytes(), f"sample/{split}.jsonl", labels))
    source = open_source(dataset, split)
    if source.format not in ("jsonl", "cluener"):
        log.info("%s is read as %s", source.path, source)
    return source.examples(labels, unlabelled=split == "test")


def read_all(
    dataset: str, *, labels: LabelSet | None = None, data_dir: str | Path | None = None
) -> dict[str, list[Example]]:
    """The examples of every split that a data set has, {name: examples}, of train, dev and test in this order.

    A single file is one split, under its own name. Raises as `read_dataset` does; a folder with none of the three too.
    """
    names = [split for split in ("train", "dev", "test") if has_split(dataset, split, data_dir)]
    if not names and Path(dataset).expanduser().is_file():
        return {Path(dataset).stem: read_dataset(dataset, "train", labels=labels)}
    return {split: read_dataset(dataset, split, labels=labels, data_dir=data_dir) for split in names or ("train",)}


def has_split(dataset: str, split: str, data_dir: str | Path | None = None) -> bool:
    """Whether `read_dataset` would find this split as one of its own. Reads no rows and downloads none.

    A single file has no split of its own: whoever trains on it must not find it again as its dev split. Raises
    `NerError` where there is no such data set.
    """
    kind = check_place(dataset, data_dir)
    if kind == "cluener":
        return cluener.has_split(split, data_dir)
    if kind == "sample":
        return split in _sample()
    path = Path(dataset).expanduser()
    if path.is_dir() and (find(path, split) or not is_folder(path)):
        return find(path, split) is not None
    return bool(set(SPLIT_NAMES.get(split, (split,))) & set(split_names(dataset)))


def check_place(dataset: str, data_dir: str | Path | None = None) -> str:
    """Which kind of data set this is: a name out of `NAMED`, or "path"; `NerError` where it is neither."""
    if data_dir is not None and dataset != "cluener":
        raise NerError(
            f"data_dir {str(data_dir)!r} goes with dataset cluener only; give the path itself as the dataset"
        )
    if dataset in NAMED:
        return dataset
    path = Path(dataset).expanduser()
    if path.is_file():
        detect(path)
    # With a folder of that name here, owner/name is a path with a slip in it.
    if path.exists() or (is_hub_id(dataset) and not path.parent.is_dir()):
        return "path"
    raise NerError(
        f"{dataset!r} is no data set, and no file or folder in {Path.cwd()}; give {' or '.join(NAMED)}, a file, a "
        f"folder with {{split}}.jsonl (or .bio, .json, …), or an id on the Hub{nearest(dataset, NAMED)}"
    )


def _sample() -> dict[str, Traversable]:
    files = (importlib.resources.files(__package__) / "sample").iterdir()
    return {file.name.removesuffix(".jsonl"): file for file in files if file.name.endswith(".jsonl")}


def _opens_jsonl(raw: bytes) -> bool:
    try:
        return "text" in json_object(raw)
    except LineFault:
        return False


def as_row(example: Example) -> dict[str, Any]:
    """The row that `read_jsonl` reads back equal.

    >>> from qwen_ner.entities import Entity
    >>> as_row(Example("0", "三星", (Entity("company", "三星", 0, 2),)))
    {'id': '0', 'text': '三星', 'entities': [{'label': 'company', 'start': 0, 'end': 2, 'text': '三星'}]}
    """
    entities = [
        {"label": e.label, "start": e.start, "end": e.end, "text": e.text}
        | ({} if e.score is None else {"score": e.score})
        for e in example.entities
    ]
    return {"id": example.id, "text": example.text, "entities": entities}
