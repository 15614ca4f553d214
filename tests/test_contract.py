import json
import math
from dataclasses import replace
from itertools import product

import pytest

from qwen_ner.contract import NER_CONFIG_NAME, NerConfig
from qwen_ner.entities import CLUENER, NerError

CALIBRATION = {"scale": 1.2, "bias": -0.1, "surfaces": 9, "error_before": 0.1, "error_after": 0.02, "thresholds": {}}
CONFIG = NerConfig(CLUENER, "找出实体", 96, (2, 0), "0123456789abcdef")


def faults_of(caught):
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
def test_what_is_saved_is_loaded(tmp_path, calibration):
    config = replace(CONFIG, calibration=calibration)
    config.save(tmp_path)
    assert NerConfig.load(tmp_path) == config


def test_every_fault_is_listed(tmp_path):
    CONFIG.save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    values = json.loads(path.read_text())
    del values["system_prompt"]
    values |= {
        "max_new_tokens": True,
        "labels": [{"title": "x"}],
        "format_version": 9,
        "colour": 1,
        "end_token_ids": [],
    }
    path.write_text(json.dumps(values))
    with pytest.raises(NerError) as caught:
        NerConfig.load(tmp_path)
    assert caught.value.place == path
    assert {fault.split(":")[0] for fault in faults_of(caught)} == {
        "system_prompt", "max_new_tokens", "labels", "format_version", "colour", "end_token_ids",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", [{"name": 7}]),
        ("labels", [{"name": "x", "description": None}]),
        ("labels", [{"name": "x"}, {"name": "x"}]),
        ("labels", [{"name": "\ud83d"}]),
        ("system_prompt", "\ud83d"),
        ("calibration", 5),
        ("calibration.thresholds", {"\ud83d": 0.5}),
        ("calibration.thresholds", {"address": 1.5}),
        ("calibration.thresholds", {"address": math.nan}),
        ("calibration.thresholds", [0.5]),
        ("calibration.scale", 0.0),
        ("calibration.scale", -0.4),
        ("calibration.error_after", -0.1),
        ("calibration.surfaces", 1.5),
        ("calibration.colour", 1),
        ("labels", 10**400),
        ("format_version", math.nan),
        *product(
            ["calibration.scale", "calibration.bias", "calibration.surfaces", "calibration.error_before"],
            [math.nan, math.inf, -math.inf, 10**400, -(10**400), True, "1", None],
        ),
        *product(["max_new_tokens", "window"], [math.nan, math.inf, 10**400, -1, 1.0, None]),
        *product(["end_token_ids"], [[math.nan], [10**400], [-1], [2.0], 2]),
    ],
)
def test_what_no_training_writes_is_a_fault_that_can_be_printed(tmp_path, key, value):
    replace(CONFIG, calibration=CALIBRATION).save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    values = json.loads(path.read_text())
    place, _, name = key.rpartition(".")
    (values[place] if place else values)[name] = value
    path.write_text(json.dumps(values))
    with pytest.raises(NerError) as caught:
        NerConfig.load(tmp_path)
    (fault,) = faults_of(caught)
    assert fault.startswith(f"{key}: ")
    assert len(fault) < 250
    assert str(caught.value).encode()
    assert caught.value.place == path
    assert caught.value.remedy.startswith("copy it from another checkpoint of the same training")
    assert ("set calibration to null" in caught.value.remedy) == key.startswith("calibration")


def test_a_bad_calibration_can_be_removed(tmp_path):
    replace(CONFIG, calibration={**CALIBRATION, "scale": -1.0}).save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    with pytest.raises(NerError):
        NerConfig.load(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": None}))
    assert NerConfig.load(tmp_path) == CONFIG


def test_a_number_too_long_for_python_is_a_fault(tmp_path):
    CONFIG.save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    path.write_text(path.read_text().replace("96", "9" * 5000))
    with pytest.raises(NerError) as caught:
        NerConfig.load(tmp_path)
    assert (caught.value.place, caught.value.remedy) == (path, "copy it from another checkpoint of the same training")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no ner_config"), ("{", "not JSON"), ("[" * 9999, "not JSON"), ("[]", "not a JSON object")],
)
def test_a_folder_of_something_else_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / NER_CONFIG_NAME).write_text(content)
    with pytest.raises(NerError, match=said) as caught:
        NerConfig.load(tmp_path)
    assert caught.value.place == (tmp_path if content is None else tmp_path / NER_CONFIG_NAME)


@pytest.mark.parametrize(
    ("key", "change", "at"),
    [
        ("labels", lambda labels: labels[1:], "labels, system_prompt, target"),
        ("labels", lambda labels: [*labels, {"name": "new"}], "labels, system_prompt, target"),
        ("labels", lambda labels: labels[::-1], "labels, system_prompt, target"),
        ("system_prompt", lambda prompt: prompt + "。", "labels, system_prompt, target"),
        ("labels", lambda labels: [*labels, labels[0]], "labels"),
        ("labels", lambda labels: [{"name": 5}], "labels"),
        ("labels", lambda labels: [{"name": "a", "description": 5}], "labels"),
    ],
)
def test_an_edited_file_is_told(tmp_path, key, change, at):
    CONFIG.save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {key: change(values[key])}))
    with pytest.raises(NerError) as caught:
        NerConfig.load(tmp_path)
    assert caught.value.place == path
    (fault,) = faults_of(caught)
    assert fault.startswith(f"{at}: ")


def test_a_change_that_is_meant_can_be_made_and_descriptions_are_free(tmp_path):
    CONFIG.save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    values = json.loads(path.read_text())
    values["labels"][0]["description"] = "anything"
    path.write_text(json.dumps(values))
    assert NerConfig.load(tmp_path).labels.names == CONFIG.labels.names
    shown = replace(CONFIG, system_prompt="Labels:\n{labels}")  # descriptions are part of what the model is asked
    shown.save(tmp_path)
    assert NerConfig.load(tmp_path) == shown
    asked = json.loads(path.read_text())
    asked["labels"][0]["description"] = "anything"
    path.write_text(json.dumps(asked))
    with pytest.raises(NerError, match="not those that the model was trained with"):
        NerConfig.load(tmp_path)
    del values["prompt_fingerprint"]
    path.write_text(json.dumps(values | {"system_prompt": "other"}))
    assert NerConfig.load(tmp_path).system_prompt == "other"
