"""`ner_config.json`: what the folder of a trained model must say so that it can be used without its recipe.

In: a folder, or values to put there. Out: an `NerConfig`, checked. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .codec import FORMAT_VERSION, Codec
from .entities import Label, LabelSet, NerError
from .files import write_json

NER_CONFIG_NAME = "ner_config.json"

PROMPT = "prompt_fingerprint"
"""Key of the file that tells whether its labels and its system prompt are still those of the training."""


@dataclass(frozen=True)
class NerConfig:
    """Labels, prompt and limits of a trained model; `.codec()` is the one it was trained with.

    `max_new_tokens` bounds an answer, `end_token_ids` stop it; `data_fingerprint` is `entities.fingerprint` of the rows
    that were trained on; `window` is the length in characters of the longest of them, 0 for unknown: longer texts are
    read in parts. `calibration` has the fields of `inference.calibration.Calibration`, fitted on held-out rows.
    """

    labels: LabelSet
    system_prompt: str
    max_new_tokens: int
    end_token_ids: tuple[int, ...]
    data_fingerprint: str = ""
    format_version: int = FORMAT_VERSION
    window: int = 0
    calibration: dict[str, Any] | None = None

    def codec(self) -> Codec:
        return Codec(self.labels, self.system_prompt)

    def save(self, folder: str | Path) -> None:
        """Write `folder/ner_config.json`, whole or not at all."""
        values = {**asdict(self), "labels": [asdict(label) for label in self.labels]}
        values[PROMPT] = _prompt_fingerprint(self.labels.names, self.system_prompt)
        write_json(Path(folder) / NER_CONFIG_NAME, values)

    @classmethod
    def load(cls, folder: str | Path) -> NerConfig:
        """Read and check `folder/ner_config.json`. Raises `NerError` with all of its faults at once."""
        path = Path(folder) / NER_CONFIG_NAME
        if not path.is_file():
            raise NerError(
                f"{folder}: no {NER_CONFIG_NAME}; give a folder that `qwen-ner train` wrote (an output_dir or a "
                "checkpoint in it), not a base model"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise NerError(
                f"{path}: not JSON ({error}); take it from another checkpoint of the same training"
            ) from None
        faults = _faults(values)
        if faults:
            raise NerError("\n  ".join([f"{path} has {len(faults)} fault{'s'[: len(faults) > 1]}", *faults]))
        values.pop(PROMPT, None)
        labels = LabelSet(tuple(Label(**label) for label in values.pop("labels")))
        return cls(labels=labels, **{**values, "end_token_ids": tuple(values["end_token_ids"])})


def _faults(values: Any) -> list[str]:
    """What is wrong with the contents of a ner_config.json, one line a fault."""
    if not isinstance(values, dict):
        return ["it holds no JSON object"]
    is_count = lambda v: type(v) is int and v > 0  # noqa: E731
    expected: dict[str, tuple[str, Any]] = {
        "labels": ('a list of {"name", "description"}, each name once', _are_labels),
        "system_prompt": ("a string", _is_text),
        "max_new_tokens": ("a positive whole number", is_count),
        "end_token_ids": (
            "a list of token ids",
            lambda v: isinstance(v, list) and v and all(type(i) is int and i >= 0 for i in v),
        ),
        "data_fingerprint": ("a string", _is_text),
        "format_version": (f"{FORMAT_VERSION}, the one this version reads", lambda v: v == FORMAT_VERSION),
    }
    optional: dict[str, tuple[str, Any]] = {
        "window": ("a whole number of characters, 0 or 4 at least", lambda v: type(v) is int and (v == 0 or v >= 4)),
        "calibration": ("null or an object with scale, bias and thresholds", _is_calibration),
        PROMPT: ("a string", lambda v: isinstance(v, str)),
    }
    known = {**expected, **optional}
    faults = [f"{_shown(key)}: unknown; was it written by a newer qwen_ner?" for key in values if key not in known]
    for key, (what, holds) in known.items():
        if key not in values:
            if key in optional:
                continue
            faults.append(f"{key}: missing; expected {what}")
        elif not holds(values[key]):
            faults.append(f"{key}: {_shown(json.dumps(values[key], ensure_ascii=False))} is not {what}")
    if not faults and PROMPT in values:
        names = [label["name"] for label in values["labels"]]
        if values[PROMPT] != _prompt_fingerprint(names, values["system_prompt"]):
            faults.append(
                "labels, system_prompt: not those that the model was trained with; take the file from a checkpoint of "
                f"the same training, or leave {PROMPT} out if the change is meant"
            )
    return faults


def _prompt_fingerprint(names: Sequence[str], system_prompt: str) -> str:
    content = json.dumps([list(names), system_prompt], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _shown(text: str) -> str:
    """`text` as it can be printed."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_text(value: Any) -> bool:
    """Whether a tokenizer can read it: JSON can spell half a surrogate pair, UTF-8 cannot."""
    return isinstance(value, str) and value == value.encode("utf-8", "ignore").decode()


def _are_labels(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    for label in value:
        if not isinstance(label, dict) or not label.keys() <= {"name", "description"}:
            return False
        if not label.get("name") or not all(map(_is_text, label.values())):
            return False
    return len({label["name"] for label in value}) == len(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_calibration(value: Any) -> bool:
    if value is None:
        return True
    numbers = {"scale", "bias", "surfaces", "error_before", "error_after"}
    return (
        isinstance(value, dict)
        and value.keys() == numbers | {"thresholds"}
        and all(_is_number(value[key]) for key in numbers)
        and isinstance(value["thresholds"], dict)
        and all(map(_is_text, value["thresholds"]))
        and all(map(_is_number, value["thresholds"].values()))
    )
