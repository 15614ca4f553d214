"""Rows of other tools and data sets in JSON, which say the same as ours in other words.

In: rows of one of these kinds, one per line or in a JSON array.

    CMeEE, other KEYS  {"text": …, "entities": [{"start_idx": 0, "end_idx": 1, "type": "company", "entity": "三星"}]}
    Prodigy            {"text": …, "spans": [{"start": 0, "end": 2, "label": "company"}], "answer": "accept"}
    spaCy              ["三星在北京", {"entities": [[0, 2, "company"]]}]
    UIE, one per label {"content": …, "prompt": "company", "result_list": [{"text": "三星", "start": 0, "end": 2}]}
    LLaMA-Factory      {"instruction": …, "input": "三星在北京", "output": "{\"company\": [\"三星\"]}"}
    ShareGPT, OpenAI   {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": "{…}"}]}

Out: the rows that `jsonl` reads. What is left out or repaired is told to `warn`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from os.path import commonprefix
from pathlib import Path
from typing import Any

from ....entities import Example, LabelSet
from ..errors import LineFault, Note, ignore, quote
from ..jsonl import entities_of
from ..lines import lines_of
from ..rows import numbered, read_rows, values_in

NAME = "tools"
SUFFIXES = (".jsonl", ".json")
DESCRIPTION = "rows of CMeEE, UIE, Prodigy, spaCy, LLaMA-Factory, ShareGPT and the like"

KEYS = {
    "text": ("text", "content", "sentence", "originalText", "raw_text", "context", "document"),
    "items": (
        "entities",
        "spans",
        "labels",
        "label",
        "ents",
        "entity_list",
        "annotations",
        "mentions",
        "entity",
        "ner",
    ),
    "start": ("start", "start_idx", "start_offset", "from", "begin", "start_pos", "startIndex", "start_index", "beg"),
    "end": ("end", "end_idx", "end_offset", "to", "stop", "end_pos", "endIndex", "end_index"),
    "span": ("span", "pos", "offset", "offsets", "position", "interval", "loc"),
    "label": ("label", "type", "tag", "entity_type", "entity_label", "label_type", "category", "class", "labels"),
    "surface": ("text", "surface", "entity", "word", "mention", "name", "value", "entity_text"),
}
"""What keys are called elsewhere; of several that a row has, the first."""

INCLUSIVE = ("end_idx",)
"""Keys whose ends are inclusive where no surface tells: CMeEE's."""

ACCEPTED = ("accept", None)
"""Prodigy's answers of rows that count."""

ANSWER = 'make it {"label": ["surface"]}'

CHATS = ("messages", "conversations", "conversation")

OURS = frozenset({"text", "entities", "label", "labels", "start", "end", "start_offset", "end_offset"})
"""Keys of texts, entities, labels and offsets that the other readers know."""


def sniff(head: bytes, name: str) -> bool:
    """The first row that has entities decides."""
    for value in values_in(head):
        if _is_pair(value):
            return True
        if not isinstance(value, dict) or ("tokens" in value and "spans" not in value):
            return False
        if _is_uie(value) or _is_chat(value) or _is_instruction(value):
            return True
        key = _key(value, "items")
        items = value.get(key) if key else None
        if isinstance(items, list) and items:
            item = items[0] if isinstance(items[0], dict) else {}
            kinds = [_key(item, kind) for kind in ("label", "start", "end", "span")]
            return kinds[0] is not None and not {key, _key(value, "text"), *kinds} - {None} <= OURS
    return False


def read(
    path: str | Path, labels: LabelSet | None = None, *, note: Note = ignore, warn: Note = ignore, **_: Any
) -> Iterator[Example]:
    """Rows of one text that each ask for one label are joined, in memory. What all questions of chats, or instructions
    without an input, begin with is taken for an instruction."""
    first = next((value for value in _values(path) if isinstance(value, dict)), {})
    if _is_uie(first):
        return read_rows(partial(_joined, path), path, labels, entities_of, note=note, warn=warn)
    before = _instruction(path, warn) if _is_chat(first) or _is_instruction(first) else ""
    return read_rows(
        partial(lines_of, path), path, labels, entities_of, row_of=partial(_row_of, before=before), note=note, warn=warn
    )


def _values(path: str | Path) -> Iterator[Any]:
    """The rows that can be read; the reading that follows reports all others."""
    for _, _, raw in numbered(lines_of(path), Path(path).name, path):
        try:
            yield json.loads(raw)
        except ValueError:
            continue


def _row_of(value: Any, before: str = "") -> dict[str, Any] | str:
    if _is_pair(value):
        text, annotation = value
        rest = {key: held for key, held in annotation.items() if key not in ("text", "entities")}
        return {**rest, "text": text, "entities": [_entity(item) for item in annotation["entities"]]}
    if not isinstance(value, dict):
        raise LineFault(f"{quote(value)} is neither an object nor a pair", remedy="write rows of one kind only")
    if _is_chat(value):
        question, answer = _turns(value)
        return _rest(value, *CHATS) | {"text": question.removeprefix(before), **answered(answer)}
    if _is_instruction(value):
        text = value.get("input") or value["instruction"]
        if isinstance(text, str) and not value.get("input"):
            text = text.removeprefix(before)
        return _rest(value, "instruction", "input", "output") | {"text": text, **answered(value["output"])}
    if value.get("answer") not in ACCEPTED:
        return f"rows whose answer is {quote(value['answer'])}, left out"
    text, key = _key(value, "text"), _key(value, "items")
    items = value[key] if key else None
    if not isinstance(items, list):
        remedy = 'a sentence without entities has "entities": []'
        raise LineFault(f"{quote(value)} has no list of entities", remedy=remedy)
    made = {"text": value[text]} if text else {}
    return _rest(value, text, key, "answer") | made | annotation_of(items)


def _rest(value: dict[str, Any], *read: str | None) -> dict[str, Any]:
    """The other keys, to be named as not read; an id of null is none."""
    taken = {*read, "text", "label", "entities"}
    return {key: held for key, held in value.items() if key not in taken and not (key == "id" and held is None)}


def annotation_of(items: list[Any]) -> dict[str, Any]:
    """As "entities" if they have offsets, else as {label: surfaces}."""
    made = [_entity(item) for item in items]
    if not made or any("start" in item for item in made):
        return {"entities": made}
    tree: dict[str, dict[str, None]] = {}
    for item in made:
        if "text" not in item:
            raise LineFault(f"{quote(item)} has neither offsets nor a surface", remedy="give it one of them")
        tree.setdefault(str(item["label"]), {})[item["text"]] = None
    return {"label": {label: list(surfaces) for label, surfaces in tree.items()}}


def _entity(item: Any) -> dict[str, Any]:
    """An entity in our keys. Raises `LineFault` if it has no label."""
    if isinstance(item, list) and len(item) == 3:
        return {"start": item[0], "end": item[1], "label": item[2]}
    if not isinstance(item, dict) or not (label := _key(item, "label")):
        raise LineFault(f"the entity {quote(item)} has no label", remedy='give it a "label", a "start" and an "end"')
    name = item[label]
    made: dict[str, Any] = {"label": name[0] if isinstance(name, list) and len(name) == 1 else name}
    start, end, span = (_key(item, kind) for kind in ("start", "end", "span"))
    surface = next((key for key in KEYS["surface"] if isinstance(item.get(key), str) and key != label), None)
    if surface:
        made["text"] = item[surface]
    if start and end:
        made |= {"start": item[start], "end": item[end]}
        if end in INCLUSIVE and not surface and type(made["end"]) is int:
            made["end"] += 1
    elif span and isinstance(item[span], list) and len(item[span]) == 2:
        made["start"], made["end"] = item[span]
    used = {label, surface, *((start, end) if start and end else (span,))}
    return {key: held for key, held in item.items() if key not in used and key not in made} | made


def _key(value: dict[str, Any], kind: str) -> str | None:
    return next((key for key in KEYS[kind] if key in value), None)


def answered(answer: Any, name: str = "answer") -> dict[str, Any]:
    """The annotation that an answer is: {label: surfaces}, a list of entities, or either as a string of JSON.

    Raises `LineFault`, which calls it `name`.
    """
    tree = answer
    if isinstance(answer, str):
        try:
            tree = json.loads(answer.strip().removeprefix("```json").removesuffix("```"))
        except ValueError:
            raise LineFault(f"the {name} {quote(answer)} is not JSON", remedy=ANSWER) from None
    if isinstance(tree, dict) and len(tree) == 1 and isinstance(inner := next(iter(tree.values())), list):
        tree = inner if inner and all(isinstance(item, dict) for item in inner) else tree
    if isinstance(tree, list):
        return annotation_of(tree)
    if isinstance(tree, dict):  # a label without surfaces, which some write for every label, says nothing
        return {
            "label": {label: [found] if isinstance(found, str) else found for label, found in tree.items() if found}
        }
    raise LineFault(f"the {name} {quote(answer)} names no entities", remedy=ANSWER)


def _turns(value: dict[str, Any]) -> tuple[str, Any]:
    """Question and answer of a chat of two turns, besides those of the system."""
    turns = [turn for key in CHATS for turn in value.get(key) or () if isinstance(turn, dict)]
    said = [(turn.get("role") or turn.get("from"), turn.get("content", turn.get("value"))) for turn in turns]
    spoken = [(who, what) for who, what in said if who != "system"]
    if len(spoken) != 2 or spoken[0][0] not in ("user", "human") or not isinstance(spoken[0][1], str):
        what = f"the chat {quote(value)} is not one question and one answer"
        raise LineFault(what, remedy="write a row for each question and answer")
    return spoken[0][1], spoken[1][1]


def _instruction(path: str | Path, warn: Note) -> str:
    """What the questions of several rows all begin with, up to a colon or a line break."""
    questions = []
    for value in filter(lambda value: isinstance(value, dict), _values(path)):
        if _is_instruction(value):
            question = value["instruction"]
            questions += [question] if isinstance(question, str) and not value.get("input") else []
            continue
        with suppress(LineFault):
            questions.append(_turns(value)[0])
    shared = commonprefix(questions) if len(set(questions)) > 1 else ""  # noqa: RUF071  (of strings, as it is meant)
    end = max(shared.rfind(mark) for mark in ":\n：") + 1
    if end:
        warn(
            f"questions that begin with {quote(shared[:end])}, taken for the instruction and left out", Path(path).name
        )
    return shared[:end]


def _joined(path: str | Path) -> Iterable[bytes]:
    """UIE's rows, each of one label, as one row a text. Rows that are none are left for the reader to report."""
    texts: dict[str, list[dict[str, Any]]] = {}
    for _, _, raw in numbered(lines_of(path), Path(path).name, path):
        try:
            value = json.loads(raw)
            items = [_entity({**item, "label": value["prompt"]}) for item in value["result_list"]]
            texts.setdefault(value["content"], []).extend(items)
        except (ValueError, TypeError, KeyError, LineFault):
            yield raw
    for text, items in texts.items():
        yield json.dumps({"text": text, **annotation_of(items)}, ensure_ascii=False).encode()


def _is_pair(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    return pair and isinstance(value[1], dict) and isinstance(value[1].get("entities"), list)


def _is_uie(value: Any) -> bool:
    keys = isinstance(value, dict) and {"content", "prompt", "result_list"} <= value.keys()
    return keys and isinstance(value["result_list"], list) and isinstance(value["content"], str)


def _is_chat(value: dict[str, Any]) -> bool:
    return any(isinstance(value.get(key), list) for key in CHATS)


def _is_instruction(value: dict[str, Any]) -> bool:
    return {"instruction", "output"} <= value.keys() and "entities" not in value
