"""`ner_config.json`: what the folder of a trained model must say to be used without its recipe.

In: a folder, or the values to store there. Out: a validated `NerConfig`. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .codec import FORMAT_VERSION, Codec
from .entities import Label, LabelSet, NerError
from .files import read_json, write_json
from .inline import CODECS

NER_CONFIG_NAME = "ner_config.json"

PROMPT = "prompt_fingerprint"
"""Key that tells whether the labels, the system prompt and the target in the file are still those of the training."""

ADDED = (PROMPT, "target")
"""Keys that the files of earlier versions lack."""


@dataclass(frozen=True)
class NerConfig:
    """Labels, prompt and limits of a trained model; `codec()` returns the codec it was trained with.

    `max_new_tokens` limits the length of an answer and `end_token_ids` end it. `data_fingerprint` is
    `entities.fingerprint` of the training rows. `window` is the length in characters of the longest of them, as they
    were trained on, or 0 if unknown; longer texts are read in windows. `calibration` holds the fields of
    `inference.calibration.Calibration`, fitted on held-out rows. `target` is what answers are written in.
    """

    labels: LabelSet
    system_prompt: str
    max_new_tokens: int
    end_token_ids: tuple[int, ...]
    data_fingerprint: str = ""
    format_version: int = FORMAT_VERSION
    window: int = 0
    calibration: dict[str, Any] | None = None
    target: str = Codec.target

    def codec(self) -> Codec:
        return CODECS[self.target](self.labels, self.system_prompt)

    def save(self, folder: str | Path) -> None:
        """Write `folder/ner_config.json` atomically."""
        values = {**asdict(self), "labels": [asdict(label) for label in self.labels]}
        labels = [(label.name, label.description) for label in self.labels]
        if self.target == Codec.target:
            del values["target"]  # so that earlier versions can read it
        values[PROMPT] = _prompt_fingerprints(labels, self.system_prompt, self.target)[0]
        write_json(Path(folder) / NER_CONFIG_NAME, values)

    @classmethod
    def load(cls, folder: str | Path) -> NerConfig:
        """Read and validate `folder/ner_config.json`. Raises one `NerError` with all of its faults."""
        path = Path(folder) / NER_CONFIG_NAME
        if not path.is_file():
            remedy = "give an output_dir of `qwen-ner train` or a checkpoint in it, not a base model"
            raise NerError(f"no {NER_CONFIG_NAME}", place=folder, remedy=remedy)
        remedy = "copy it from another checkpoint of the same training"
        values = read_json(path, remedy)
        if faults := _faults(values):
            what = "\n  ".join([f"{len(faults)} fault{'s'[: len(faults) > 1]}", *faults])
            if all(fault.startswith("calibration") for fault in faults):
                remedy += ", or set calibration to null"
            raise NerError(what, place=path, remedy=remedy)
        values.pop(PROMPT, None)
        labels = LabelSet(tuple(Label(**label) for label in values.pop("labels")))
        return cls(labels=labels, **{**values, "end_token_ids": tuple(values["end_token_ids"])})


def _faults(values: Any) -> list[str]:
    """What is wrong with the contents of a ner_config.json, one line per fault."""
    if not isinstance(values, dict):
        return ["not a JSON object"]
    faults = _misfits(values, KEYS)
    if isinstance(values.get("calibration"), dict):
        faults += _misfits(values["calibration"], CALIBRATION_KEYS, "calibration.")
    if not faults and PROMPT in values:
        labels = [(label["name"], label.get("description", "")) for label in values["labels"]]
        if values[PROMPT] not in _prompt_fingerprints(labels, values["system_prompt"], values.get("target", "json")):
            what = f"not those that the model was trained with (remove {PROMPT} to keep the change)"
            faults.append(f"labels, system_prompt, target: {what}")
    return faults


def _misfits(values: dict[str, Any], keys: Keys, parent: str = "") -> list[str]:
    """The keys of `values` that are unknown, missing, or not as `keys` wants them."""
    faults = [f"{parent}{key}: unknown; was it written by a newer qwen_ner?" for key in values if key not in keys]
    for key, (expected, holds) in keys.items():
        if key not in values and key not in ADDED:
            faults.append(f"{parent}{key}: missing; expected {expected}")
        elif key in values and not holds(values[key]):
            faults.append(f"{parent}{key}: {json.dumps(values[key], ensure_ascii=False)[:80]} is not {expected}")
    return faults


def _prompt_fingerprints(labels: Sequence[tuple[str, str]], system_prompt: str, target: str) -> list[str]:
    """The fingerprint of what the model is asked, and that of earlier versions, which left descriptions out."""
    names = [name for name, _ in labels]
    shown = [*map(list, labels)] if "{labels}" in system_prompt else names
    rest = [system_prompt, *([target] if target != Codec.target else [])]
    contents = [json.dumps([some, *rest], ensure_ascii=True) for some in (shown, names)]
    return [hashlib.sha256(content.encode()).hexdigest()[:16] for content in contents]


def _is_text(value: Any) -> bool:
    """Whether it is a string without half surrogate pairs, which JSON can hold and a tokenizer cannot."""
    return isinstance(value, str) and value == value.encode("utf-8", "ignore").decode()


def _are_labels(value: Any) -> bool:
    try:
        labels = LabelSet(tuple(Label(**label) for label in value))
    except (TypeError, NerError):
        return False
    return all(_is_text(label.name) and _is_text(label.description) for label in labels)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 2**31


def _is_number(value: Any, least: float = -1e6, most: float = 1e6) -> bool:
    """Whether it is within these bounds, which NaN never is."""
    return type(value) in (int, float) and least <= value <= most


def _are_shares(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value)) and all(_is_number(v, 0, 1) for v in value.values())


Keys = dict[str, tuple[str, Callable[[Any], bool]]]
"""For each key what is expected, in words and as a check."""

KEYS: Keys = {
    "labels": ('a list of {"name", "description"}, each name once', _are_labels),
    "system_prompt": ("a string", _is_text),
    "max_new_tokens": ("a positive whole number below 2³¹", lambda v: _is_count(v, 1)),
    "end_token_ids": ("a list of token ids", lambda v: isinstance(v, list) and len(v) > 0 and all(map(_is_count, v))),
    "data_fingerprint": ("a string", _is_text),
    "format_version": (f"{FORMAT_VERSION}, the one this version reads", lambda v: v == FORMAT_VERSION),
    "window": ("a whole number of characters, 0 or at least 4", lambda v: _is_count(v) and (v == 0 or v >= 4)),
    "calibration": ("null or an object", lambda v: v is None or isinstance(v, dict)),
    "target": (" or ".join(CODECS), lambda v: isinstance(v, str) and v in CODECS),
    PROMPT: ("a string", lambda v: isinstance(v, str)),
}
CALIBRATION_KEYS: Keys = {
    "scale": ("a positive number", lambda v: _is_number(v, math.ulp(0))),
    "bias": ("a number", _is_number),
    "thresholds": ("an object of numbers from 0 to 1", _are_shares),
    "surfaces": ("a whole number", _is_count),
    "error_before": ("a number from 0 to 1", lambda v: _is_number(v, 0, 1)),
    "error_after": ("a number from 0 to 1", lambda v: _is_number(v, 0, 1)),
}
