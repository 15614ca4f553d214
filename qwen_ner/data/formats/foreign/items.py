"""The entities of a row, as other tools and data sets write them.

In: a list of entities under keys of several names, or an answer: {label: surfaces} or such a list, perhaps as a string
of JSON. Out: the annotation in the keys of `jsonl`. Knows nothing of rows and files.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ....codec import unique_keys
from ....entities import NerError
from ..errors import LineFault, quote

KEYS = {
    "text": ("text", "content", "sentence", "originalText", "raw_text", "context", "document"),
    "items": (
        *("entities", "spans", "labels", "label", "ents"),
        *("entity_list", "annotations", "mentions", "entity", "ner"),
    ),
    "start": (
        *("start", "start_idx", "start_offset", "from", "begin", "start_pos", "startIndex", "start_index", "beg"),
        *("start_char", "char_start", "begin_offset", "start_position", "startOffset", "beginOffset"),
    ),
    "end": (
        *("end", "end_idx", "end_offset", "to", "stop", "end_pos", "endIndex", "end_index"),
        *("end_char", "char_end", "end_position", "endOffset", "finish"),
    ),
    "span": ("span", "pos", "offset", "offsets", "position", "interval", "loc"),
    "length": ("length", "len"),
    "label": ("label", "type", "tag", "entity_type", "entity_label", "label_type", "category", "class", "labels"),
    "surface": ("text", "surface", "entity", "word", "mention", "name", "value", "entity_text"),
}
"""What keys are called elsewhere; of several that a row has, the first."""

OWN = ("id", "label", "text", "score")
"""Keys of an entity without offsets that say nothing of its place."""

INCLUSIVE = ("end_idx",)
"""Keys whose ends are inclusive where no surface tells: CMeEE's."""

ANSWER = 'make it {"label": ["surface"]}'

NUMBERS = re.compile(r'[\[("]*(\d+)(?:[^\w.]+(\d+))?[\])"]*')
"""One whole number or two, as JSON writes them: [4, 6], "4-6", 4."""

PLACE = re.compile("start|beg|off|起|始|位置", re.IGNORECASE)
"""A part of the name of a key that may hold an offset."""


def key_of(value: dict[str, Any], kind: str) -> str | None:
    return next((key for key in KEYS[kind] if key in value), None)


def annotation_of(items: list[Any], text: object) -> dict[str, Any]:
    """As "entities" if they have offsets, else as {label: surfaces} beside keys for all else that they hold, so that
    these are told to be unread.

    Raises `LineFault` for an entity without either, or beside whose surface something says which of its places in the
    text is meant.
    """
    made = [entity_of(item) for item in items]
    if not made or any("start" in item for item in made):
        return {"entities": made}
    tree: dict[str, dict[str, None]] = {}
    rest: dict[str, Any] = {}
    for item in made:
        label, surface = item["label"], item.get("text")
        if not isinstance(surface, str):
            raise LineFault(f"{quote(item)} has neither offsets nor a surface", remedy="give it one of them")
        if not isinstance(label, (str, int)):
            raise LineFault(f"the label is {quote(label)}", remedy="make it a non-empty string")
        if isinstance(text, str) and (key := _place_key(item, surface, text)):
            what = f"{quote(key)} of {quote(item)} says which {quote(surface)} is meant"
            raise LineFault(what, remedy='write its offsets as "start" and "end", or delete them')
        tree.setdefault(str(label), {})[surface] = None
        rest |= {f"{key} of entities": held for key, held in item.items() if key not in OWN}
    return rest | {"label": {label: list(surfaces) for label, surfaces in tree.items()}}


def _place_key(item: dict[str, Any], surface: str, text: str) -> str | None:
    """The key, of those that are not read, that holds one of several places of the surface."""
    for key, value in item.items() if text.count(surface) > 1 else ():
        if key in OWN or not (found := NUMBERS.fullmatch(json.dumps(value))):
            continue
        start, end, before = int(found[1]), int(found[2] or 0), max(int(found[1]) - 1, 0)
        if found[2]:
            holds = surface in (text[start:end], text[start : end + 1], text[before:end])
        else:
            named = key in (*KEYS["start"], *KEYS["span"]) or PLACE.search(key)
            holds = bool(named) and any(text.startswith(surface, at) for at in (start, before))
        if holds:
            return key
    return None


def entity_of(item: Any) -> dict[str, Any]:
    """An entity in our keys. Raises `LineFault` if it has no label, or several places."""
    if isinstance(item, list) and len(item) == 3:
        return {"start": item[0], "end": item[1], "label": item[2]}
    if not isinstance(item, dict) or not (label := key_of(item, "label")):
        raise LineFault(f"the entity {quote(item)} has no label", remedy='give it a "label", a "start" and an "end"')
    made: dict[str, Any] = {"label": _only(item[label])}
    start, end, span, length = (key_of(item, kind) for kind in ("start", "end", "span", "length"))
    surface = next((key for key in KEYS["surface"] if isinstance(_only(item.get(key)), str) and key != label), None)
    if surface:
        made["text"] = _only(item[surface])
    used, first, pair = {label, surface}, start or span, _only(item[span]) if span else None
    if start and end:
        made |= {"start": item[start], "end": item[end]}
        used |= {start, end}
        if end in INCLUSIVE and not surface and type(made["end"]) is int:
            made["end"] += 1
    elif first and length and type(item[first]) is type(item[length]) is int:
        made |= {"start": item[first], "end": item[first] + item[length]}
        used |= {first, length}
    elif isinstance(pair, list) and len(pair) == 2:
        if isinstance(pair[0], list):
            raise LineFault(f"the entity {quote(item)} has several pieces", remedy="write it as one, or one for each")
        made["start"], made["end"] = pair
        used.add(span)
    return {key: held for key, held in item.items() if key not in used and key not in made} | made


def _only(value: Any) -> Any:
    """What a list of one holds, and all else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def answered(answer: Any, text: object, name: str = "answer") -> dict[str, Any]:
    """The annotation of a text that an answer is: {label: surfaces}, a list of entities, or either as JSON.

    Raises `LineFault`, which calls it `name`.
    """
    tree = answer
    if isinstance(answer, str):
        try:
            bare = answer.strip().removeprefix("```json").removesuffix("```")
            tree = json.loads(bare, object_pairs_hook=unique_keys)
        except NerError as error:
            raise LineFault(f"the {name} {quote(answer)}: {error.what}", remedy=error.remedy) from None
        except (ValueError, RecursionError):
            raise LineFault(f"the {name} {quote(answer)} is not JSON", remedy=ANSWER) from None
    if isinstance(tree, dict) and len(tree) == 1 and isinstance(inner := next(iter(tree.values())), list):
        tree = inner if inner and all(isinstance(item, dict) for item in inner) else tree
    if isinstance(tree, list):
        return annotation_of(tree, text)
    if isinstance(tree, dict):  # a label without surfaces, which some write for every label, says nothing
        return {
            "label": {label: [found] if isinstance(found, str) else found for label, found in tree.items() if found}
        }
    raise LineFault(f"the {name} {quote(answer)} names no entities", remedy=ANSWER)
