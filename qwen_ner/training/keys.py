"""Every key of a recipe with its type, default and help text, for `qwen-ner recipe` and the documentation.

In: the dataclasses of arguments.py. Out: `Key`s. Does not read recipes.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.formats.errors import nearest
from ..entities import NerError
from .arguments import DataArguments, ModelArguments, NerTrainingArguments
from .contradictions import MUST_BE, UNSUPPORTED

CHOICES = 12
"""How many values of an enumeration are named in its type."""


@dataclass(frozen=True)
class Key:
    """One key of a recipe; `default` is written as in YAML, and empty if it depends on the machine."""

    name: str
    group: str
    type: str
    default: str
    help: str


DATA, MODEL = "Data", "Model"
TRAINING = "Training: keys of this package, and defaults that it changes"
INHERITED = "Training: other keys of TrainingArguments"
GROUPS = (DATA, MODEL, TRAINING, INHERITED)


def recipe_keys() -> list[Key]:
    """The keys that a recipe may have, group by group; without those of `refused_keys`."""
    found, refused = [], refused_keys()
    for group, arguments in ((DATA, DataArguments), (MODEL, ModelArguments), (TRAINING, NerTrainingArguments)):
        hints = typing.get_type_hints(arguments)
        for key in dataclasses.fields(arguments):
            if key.init and key.name not in refused:
                its = INHERITED if group == TRAINING and key.name not in arguments.__annotations__ else group
                help_text = key.metadata.get("help", "").replace("%%", "%")
                found.append(Key(key.name, its, _type(hints[key.name]), _default(key), " ".join(help_text.split())))
    return sorted(found, key=lambda key: GROUPS.index(key.group))


def refused_keys() -> dict[str, str]:
    """{key: why} of the keys of TrainingArguments that must be left out, or have the one value they have."""
    refused = {name: f"{why}; {remedy}" for name, (why, remedy) in UNSUPPORTED.items()}
    return refused | {name: f"must be {_written(value)}: {why}" for name, (value, why) in MUST_BE.items()}


def explain(names: Sequence[str] = ()) -> str:
    """The keys `names`, or all, as text for a terminal. Raises `NerError` for a name that is no key."""
    keys = recipe_keys()
    known = [*(key.name for key in keys), *refused_keys()]
    for name in names:
        if name not in known:
            raise NerError("unknown key", place=name, remedy=f"`qwen-ner recipe` lists the keys{nearest(name, known)}")
    lines = []
    for group in GROUPS:
        shown = [key for key in keys if key.group == group and (not names or key.name in names)]
        lines += ([group] if shown and not names else []) + [_lines(key) for key in shown]
    return "\n".join(lines + [f"{name}: {why}" for name, why in refused_keys().items() if name in names])


def _lines(key: Key) -> str:
    return f"  {key.name}: {key.type}{f' = {key.default}' if key.default else ''}\n      {key.help}"


def _type(hint: Any) -> str:
    """A type as a recipe's author reads it; `| none` if the key can be unset."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        enums = [part for part in parts if isinstance(part, type) and issubclass(part, enum.Enum)]
        if enums and len(enums[0]) <= CHOICES:
            return " | ".join(str(member.value) for member in enums[0])
        kept = [_type(part) for part in parts if part is not type(None) and part not in enums]
        return " | ".join(kept + ["none"] * (type(None) in parts))
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(_written(part) for part in parts)
    return hint.__name__ if isinstance(hint, type) and not parts else str(hint).replace("typing.", "")


def _default(key: dataclasses.Field[Any]) -> str:
    if key.default_factory is not dataclasses.MISSING:
        made = key.default_factory()
        return _written(made) if isinstance(made, list) else ""
    return _written(key.default)


def _written(value: Any) -> str:
    """A value as in a recipe."""
    if value is None:
        return "none"
    value = value.value if isinstance(value, enum.Enum) else value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
