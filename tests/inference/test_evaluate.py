"""Scoring a model on data that have more labels than it."""

import logging
from dataclasses import replace

import pytest
from rows import EIGHT

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.entities import Entity, Example, NerError
from qwen_ner.inference.evaluate import evaluate


def test_entities_of_labels_that_the_model_lacks_are_left_out_and_counted(trained, taught, tmp_path, caplog):
    """A model that was trained on some labels of a folder is scored on that folder as the training scored it."""
    rows = [replace(row, id=str(n)) for n, row in enumerate(EIGHT[:7])]
    plant = Example("plant", "竹子很高", (Entity("plant", "竹子", 0, 2),))
    write_jsonl(tmp_path / "dev.jsonl", [*rows, plant])
    write_jsonl(tmp_path / "bare" / "dev.jsonl", [*rows, Example("plant", plant.text)])
    model = str(trained["full"])
    (bare,) = evaluate(model, str(tmp_path / "bare"), decodings=["free"])
    with caplog.at_level(logging.INFO):
        (more,) = evaluate(model, str(tmp_path), decodings=["free"])
    assert more.scores.metrics() == bare.scores.metrics()
    assert "left out: plant 1 in 1 row" in caplog.text


def test_labels_that_are_not_those_of_the_model_are_an_error(trained, tmp_path):
    write_jsonl(tmp_path / "dev.jsonl", [Example("0", "竹子很高", (Entity("plant", "竹子", 0, 2),))])
    with pytest.raises(NerError) as error:
        next(evaluate(str(trained["full"]), str(tmp_path)))
    assert error.value.place == f"{tmp_path} dev"
    assert "plant" in error.value.remedy
    assert "company" in error.value.remedy
