"""Rows of other tools and data sets in JSON, which say the same as ours in other words.

In: rows of one of these kinds, one per line or in a JSON array.

    CMeEE, other KEYS  {"text": …, "entities": [{"start_idx": 0, "end_idx": 1, "type": "company", "entity": "三星"}]}
    Prodigy            {"text": …, "spans": [{"start": 0, "end": 2, "label": "company"}], "answer": "accept"}
    spaCy              ["三星在北京", {"entities": [[0, 2, "company"]]}]
    UIE, one per label {"content": …, "prompt": "company", "result_list": [{"text": "三星", "start": 0, "end": 2}]}
    LLaMA-Factory      {"instruction": …, "input": "三星在北京", "output": "{\"company\": [\"三星\"]}"}
    IEPile             {"instruction": "{\"schema\": […], \"input\": \"三星在北京\"}", "output": …}
    ShareGPT, OpenAI   {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": "{…}"}]}

Out: the rows that `jsonl` reads. What is left out or repaired is told to `warn`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from os.path import commonprefix
from pathlib import Path
from typing import Any

from ....entities import Example, LabelSet
from ..errors import LineFault, Note, ignore, quote
from ..jsonl import entities_of
from ..lines import lines_of
from ..rows import ONE_A_LINE, as_object, json_value, numbered, read_rows, values_in
from .items import INCLUSIVE, annotation_of, answered, entity_of, key_of

NAME = "tools"
SUFFIXES = (".jsonl", ".json")
DESCRIPTION = "rows of CMeEE, UIE, Prodigy, spaCy, LLaMA-Factory, ShareGPT and the like"

ACCEPTED = ("accept", None)
"""Prodigy's answers of rows that count."""

CHATS = ("messages", "conversations", "conversation")

LONG = 5
"""Characters that questions share by chance no more, even where no colon or line break ends them."""

BEFORE = re.compile(r".*(?:[:：\n]|```|(?<=.{4})。)", re.DOTALL)
BEHIND = re.compile(r"(?=.*\S)(?:\n|```|(?<=。)(?=.{5})).*", re.DOTALL)
"""The instruction in what questions begin or end with."""

OURS = frozenset({"text", "entities", "label", "labels", "start", "end", "start_offset", "end_offset"})
"""Keys of texts, entities, labels and offsets that the other readers know."""


def sniff(head: bytes, name: str) -> bool:
    """The first row that has entities decides."""
    for value in values_in(head):
        if _is_pair(value):
            return True
        if not isinstance(value, dict):
            return False
        if _is_unmarked(value):
            continue
        if "tokens" in value and "spans" not in value:
            return False
        if _is_uie(value) or _is_chat(value) or _is_instruction(value):
            return True
        key = key_of(value, "items")
        items = value.get(key) if key else None
        if isinstance(items, list) and items:
            item = items[0] if isinstance(items[0], dict) else {}
            kinds = [key_of(item, kind) for kind in ("label", "start", "end", "span")]
            return kinds[0] is not None and not {key, key_of(value, "text"), *kinds} - {None} <= OURS
    return False


def read(
    path: str | Path, labels: LabelSet | None = None, *, note: Note = ignore, warn: Note = ignore, **_: Any
) -> Iterator[Example]:
    """Rows of one text that each ask for other labels are joined, in memory. What all questions of chats, or
    instructions without an input, begin or end with is taken for an instruction."""
    first = next(_values(path), {})
    lines, cut = partial(lines_of, path), ("", "")
    if _is_uie(first):
        lines = partial(iter, _joined(path, warn))
    elif _is_instruction(first):
        cut = _instruction(path, warn)
        if joined := _joined_answers(path, warn):
            lines = partial(iter, joined)
    elif _is_chat(first):
        cut = _instruction(path, warn)
    elif "text" not in (item := _first_item(path)) and key_of(item, "end") in INCLUSIVE:
        warn(f"ends under {quote(key_of(item, 'end'))}, read as inclusive, as CMeEE's are", Path(path).name)
    return read_rows(lines, path, labels, entities_of, row_of=partial(_row_of, cut=cut), note=note, warn=warn)


def _values(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects among the rows; the reading that follows reports all others."""
    for _, _, raw in numbered(lines_of(path), Path(path).name, path):
        with suppress(LineFault):
            if isinstance(value := json_value(raw, ONE_A_LINE), dict):
                yield value


def _first_item(path: str | Path) -> dict[str, Any]:
    """The first entity of the rows as it is written, with its surface as "text"."""
    lists = (value.get(key_of(value, "items") or "") for value in _values(path))
    item = next((found[0] for found in lists if isinstance(found, list) and found), None)
    with suppress(LineFault):
        if isinstance(item, dict):
            return item | {key: held for key, held in entity_of(item).items() if key == "text"}
    return {}


def _row_of(value: Any, cut: tuple[str, str] = ("", "")) -> dict[str, Any] | str:
    if _is_pair(value):
        text, annotation = value
        rest = {key: held for key, held in annotation.items() if key not in ("text", "entities")}
        return {**rest, "text": text, "entities": [entity_of(item) for item in annotation["entities"]]}
    if not isinstance(value, dict):
        raise LineFault(f"{quote(value)} is neither an object nor a pair", remedy="write rows of one kind only")
    if _is_chat(value):
        question, answer = _turns(value)
        text = question.removeprefix(cut[0]).removesuffix(cut[1])
        return _rest(value, *CHATS) | {"text": text, **answered(answer, text)}
    if _is_instruction(value):
        asked, text = _asked(value)
        if not asked and isinstance(text, str):
            text = text.removeprefix(cut[0]).removesuffix(cut[1])
        return _rest(value, "instruction", "input", "output") | {"text": text, **answered(value["output"], text)}
    if value.get("answer") not in ACCEPTED:
        return f"rows whose answer is {quote(value['answer'])}, left out"
    text, key = key_of(value, "text"), key_of(value, "items")
    items = value[key] if key else [] if _is_unmarked(value) else None
    if not isinstance(items, list):
        remedy = 'a sentence without entities has "entities": []'
        raise LineFault(f"{quote(value)} has no list of entities", remedy=remedy)
    made = {"text": value[text]} if text else {}
    return _rest(value, text, key, "answer") | made | annotation_of(items, made.get("text"))


def _rest(value: dict[str, Any], *read: str | None) -> dict[str, Any]:
    """The other keys, to be named as not read; an id of null is none."""
    taken = {*read, "text", "label", "entities"}
    return {key: held for key, held in value.items() if key not in taken and not (key == "id" and held is None)}


def _turns(value: dict[str, Any]) -> tuple[str, Any]:
    """Question and answer of a chat of two turns, besides those of the system."""
    turns = [turn for key in CHATS for turn in value.get(key) or () if isinstance(turn, dict)]
    said = [(turn.get("role") or turn.get("from"), turn.get("content", turn.get("value"))) for turn in turns]
    spoken = [(who, what) for who, what in said if who != "system"]
    if len(spoken) != 2 or spoken[0][0] not in ("user", "human") or not isinstance(spoken[0][1], str):
        what = f"the chat {quote(value)} is not one question and one answer"
        raise LineFault(what, remedy="write a row for each question and answer")
    return spoken[0][1], spoken[1][1]


def _instruction(path: str | Path, warn: Note) -> tuple[str, str]:
    """What the questions of several rows all begin with, up to a colon, a line break or a fence, and what all end with,
    from a line break or a fence on. A 。 separates it too if it is long."""
    questions, inputs = list[str](), list[str]()
    for value in _values(path):
        if _is_instruction(value):
            asked, text = _asked(value)
            (inputs if asked else questions).extend([text] if isinstance(text, str) else [])
            continue
        with suppress(LineFault):
            questions.append(_turns(value)[0])
    shared = commonprefix(inputs) if len(set(inputs)) > 1 else ""  # noqa: RUF071  (of strings, as it is meant)
    if begun := BEFORE.match(shared):
        warn(f"inputs that all begin with {quote(begun[0])}, kept as a part of their texts", Path(path).name)
    if len(set(questions)) < 2:
        return "", ""
    shared = commonprefix(questions)  # noqa: RUF071
    before = found[0] if (found := BEFORE.match(shared)) else ""
    backwards = [question.removeprefix(before)[::-1] for question in questions]
    ending = commonprefix(backwards)[::-1]  # noqa: RUF071
    behind = found[0] if (found := BEHIND.search(ending)) else ""
    for verb, cut, kept in (
        ("begin", before, shared.removeprefix(before)),
        ("end", behind, ending.removesuffix(behind)),
    ):
        if cut:
            warn(f"questions that {verb} with {quote(cut)}, taken for the instruction and left out", Path(path).name)
        if len(kept) >= LONG:
            warn(f"questions that all {verb} with {quote(kept)}, kept as a part of their texts", Path(path).name)
    return before, behind


def _joined(path: str | Path, warn: Note) -> list[bytes]:
    """UIE's rows, each of one label, as one row a text, at the line of its first. Rows that are none are left for the
    reader to report. `warn` gets prompts that ask for a relation of a surface, which are left out."""
    rows: dict[int, bytes] = {}
    texts: dict[str, list[tuple[int, dict[str, Any], list[dict[str, Any]]]]] = {}
    for _, number, raw in numbered(lines_of(path), Path(path).name, path):
        try:
            value = as_object(json_value(raw, ONE_A_LINE))
            items = [entity_of({**item, "label": value["prompt"]}) for item in value["result_list"]]
            rest = _rest(value, "content", "prompt", "result_list", "answer")
            texts.setdefault(value["content"], []).append((number, rest, items))
        except (TypeError, KeyError, LineFault):
            rows[number] = raw
    ids = [asked[0][1].get("id") for asked in texts.values()]
    own = {type(one) for one in ids} <= {int, str} and len({*map(str, ids)}) == len(ids)
    for text, asked in texts.items():
        number, rest, _ = asked[0]
        found = [item for _, _, items in asked for item in items]
        subjects = tuple(f"{item['text']}的" for item in found if item.get("text"))
        entities = [item for item in found if not str(item["label"]).startswith(subjects)]
        if len(entities) < len(found):
            warn("relations of a surface, such as 三星的总部, left out", f"{Path(path).name}:{number}")
        if not own:
            rest.pop("id", None)
        rows[number] = json.dumps({**rest, "text": text, "entities": entities}, ensure_ascii=False).encode()
    return [rows.get(number, b"") for number in range(1, max(rows) + 1)]


def _asked(value: dict[str, Any]) -> tuple[Any, Any]:
    """What is asked, and the text, of a row with an instruction: its input, or that of the instruction if this is JSON;
    else all of the instruction, with "" for what is asked."""
    asked, text = value["instruction"], value.get("input")
    if text:
        return asked, text
    if isinstance(asked, str) and asked.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            inner = json.loads(asked)
            if isinstance(inner, dict) and isinstance(text := inner.pop("input", None), str):
                return json.dumps(inner, ensure_ascii=False), text
    return "", asked


def _joined_answers(path: str | Path, warn: Note) -> list[bytes]:
    """The rows, a line each, where rows of one text that ask for different things and have different labels are one;
    nothing if there are no such rows."""
    raws: dict[int, bytes] = {}
    rows: dict[str, list[tuple[int, dict[str, Any], dict[str, Any]]]] = {}
    for _, number, raw in numbered(lines_of(path), Path(path).name, path):
        raws[number] = raw
        with suppress(LineFault):
            value = json_value(raw, ONE_A_LINE)
            if isinstance(value, dict) and _is_instruction(value) and isinstance(text := _asked(value)[1], str):
                rows.setdefault(text, []).append((number, value, answered(value["output"], text).get("label", {})))
    joins = False
    for asked in rows.values():
        kinds, labels = {str(_asked(value)[0]) for _, value, _ in asked}, [name for *_, tree in asked for name in tree]
        if len(kinds) == len(asked) > 1 and len({*labels}) == len(labels):
            (number, value, _), *others = asked
            joins, joined = True, {name: found for *_, tree in asked for name, found in tree.items()}
            raws[number] = json.dumps(value | {"output": joined}, ensure_ascii=False).encode()
            raws |= dict.fromkeys((other for other, *_ in others), b"")
            warn("rows of one text that each ask for other labels, joined", f"{Path(path).name}:{number}")
    return [raws.get(number, b"") for number in range(1, max(raws) + 1)] if joins else []


def _is_unmarked(value: dict[str, Any]) -> bool:
    """Whether this is a row of Prodigy in which nothing was marked: it has tokens, and no spans."""
    tokens = value.get("tokens")
    return isinstance(tokens, list) and all(isinstance(token, dict) for token in tokens) and "spans" not in value


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
