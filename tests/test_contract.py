import json

import pytest

from qwen_ner.contract import NER_CONFIG_NAME, NerConfig
from qwen_ner.entities import CLUENER, NerError

CALIBRATION = {"scale": 1.2, "bias": -0.1, "surfaces": 9, "error_before": 0.1, "error_after": 0.02, "thresholds": {}}
CONFIG = NerConfig(CLUENER, "找出实体", 96, (2, 0), "0123456789abcdef")


def test_what_is_saved_is_loaded(tmp_path):
    CONFIG.save(tmp_path)
    assert NerConfig.load(tmp_path) == CONFIG


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
    message = str(caught.value)
    assert "has 6 faults" in message
    for key in ("system_prompt", "max_new_tokens", "labels", "format_version", "colour", "end_token_ids"):
        assert f"\n  {key}: " in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", [{"name": 7}]),
        ("labels", [{"name": "x", "description": None}]),
        ("labels", [{"name": "x"}, {"name": "x"}]),
        ("labels", [{"name": "\ud83d"}]),
        ("system_prompt", "\ud83d"),
        ("calibration", {"scale": 10**400}),
        ("calibration", {**CALIBRATION, "thresholds": {"\ud83d": 0.5}}),
    ],
)
def test_what_no_training_writes_is_a_fault_that_can_be_printed(tmp_path, key, value):
    CONFIG.save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(NerError, match=rf"has 1 fault\n  {key}: ") as caught:
        NerConfig.load(tmp_path)
    assert str(caught.value).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no ner_config.json"), ("{", "not JSON"), ("[" * 9999, "not JSON"), ("[]", "not a JSON object")],
)
def test_a_folder_of_something_else_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / NER_CONFIG_NAME).write_text(content)
    with pytest.raises(NerError, match=said):
        NerConfig.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("labels", lambda labels: labels[1:], "labels, system_prompt: not those that the model was trained with"),
        ("labels", lambda labels: [*labels, {"name": "new"}], "not those that the model was trained with"),
        ("labels", lambda labels: labels[::-1], "not those that the model was trained with"),
        ("system_prompt", lambda prompt: prompt + "。", "not those that the model was trained with"),
        ("labels", lambda labels: [*labels, labels[0]], "labels: .*each name once"),
        ("labels", lambda labels: [{"name": 5}], "is not a list of"),
        ("labels", lambda labels: [{"name": "a", "description": 5}], "is not a list of"),
    ],
)
def test_an_edited_file_is_told(tmp_path, key, change, said):
    CONFIG.save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {key: change(values[key])}))
    with pytest.raises(NerError, match=said) as caught:
        NerConfig.load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_change_that_is_meant_can_be_made_and_descriptions_are_free(tmp_path):
    CONFIG.save(tmp_path)
    path = tmp_path / NER_CONFIG_NAME
    values = json.loads(path.read_text())
    values["labels"][0]["description"] = "anything"
    path.write_text(json.dumps(values))
    assert NerConfig.load(tmp_path).labels.names == CONFIG.labels.names
    del values["prompt_fingerprint"]
    path.write_text(json.dumps(values | {"system_prompt": "other"}))
    assert NerConfig.load(tmp_path).system_prompt == "other"
