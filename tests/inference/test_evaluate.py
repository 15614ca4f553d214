"""Scoring a model on data that have more labels than it."""

import json
import logging
import shutil
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


OTHERS = [
    Example("a", "赵敏去了东京", (Entity("name", "赵敏", 0, 2), Entity("address", "东京", 4, 6))),
    Example("b", "他很高兴"),
    Example("c", "索尼的电视", (Entity("company", "索尼", 0, 2),)),
]
OWN = [*OTHERS[:1], *(replace(row, id=str(n)) for n, row in enumerate(EIGHT)), *OTHERS[1:]]


def test_of_the_file_that_a_model_was_trained_on_the_held_out_rows_are_scored(trained, tmp_path, caplog):
    write_jsonl(tmp_path / "own.jsonl", OWN)
    model, data = str(trained["full"]), str(tmp_path / "own.jsonl")
    with caplog.at_level(logging.INFO):
        (held,) = evaluate(model, data, decodings=["free"])
    assert [row.text for row in held.gold] == [row.text for row in OTHERS]
    assert (held.contract.split, held.contract.rows) == ("held-out", 3)
    assert [row.text for row in held.train] == [row.text for row in EIGHT]
    (said,) = (record for record in caplog.records if "trained on" in record.message)
    assert said.levelno == logging.INFO
    assert "8 of the 11 rows" in said.message
    caplog.clear()
    (every,) = evaluate(model, data, "train", decodings=["free"])
    assert (every.contract.split, every.contract.rows) == ("train", 11)
    assert "trained on" not in caplog.text, "it was asked for"


def test_rows_that_a_model_was_trained_on_are_warned_of(trained, tmp_path, caplog):
    """Punctuation, width and case do not make another text."""
    alike = replace(EIGHT[0], id="alike", text=f"{EIGHT[0].text}。")
    other = [Example(f"x{n}", f"第{n}次没有去", ()) for n in range(9)]
    write_jsonl(tmp_path / "some.jsonl", [*OTHERS, alike, *other])
    write_jsonl(tmp_path / "all.jsonl", OWN[1:9])
    write_jsonl(tmp_path / "none.jsonl", OTHERS)
    checkpoint = next(trained["full"].glob("checkpoint-*"))
    for model in (str(trained["full"]), str(checkpoint)):
        for name, rows, seen in (("some", 13, "1 of the 13 rows"), ("all", 8, "8 of the 8 rows"), ("none", 3, "")):
            caplog.clear()
            (result,) = evaluate(model, str(tmp_path / f"{name}.jsonl"), decodings=["free"])
            assert result.contract.rows == rows
            told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
            assert [seen in message for message in told] == ([True] if seen else [])


def test_predictions_of_rows_that_their_model_was_trained_on_are_warned_of(trained, tmp_path, caplog):
    """The file beside them says whose they are. All rows are scored, as the file has them."""
    path, data, meta = tmp_path / "p.jsonl", tmp_path / "own.jsonl", tmp_path / "p.jsonl.meta.json"
    path.write_text("".join(f'{{"id": "{row.id}", "entities": []}}\n' for row in OWN), encoding="utf-8")
    write_jsonl(data, OWN)
    seen, unknown = (
        f"{trained['full']} was trained on 8 of the 11 rows",
        "not known which rows tester/ner was trained on",
    )
    for record, told in (({"model": str(trained["full"])}, [seen]), ({"model": "tester/ner"}, [unknown]), ([], [])):
        meta.write_text(json.dumps(record))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            (result,) = evaluate(str(path), str(data))
        assert (result.contract.split, result.contract.rows) == ("dev", 11)
        said = [record for record in caplog.records if "trained on" in record.message]
        assert [text in record.message for text, record in zip(told, said, strict=True)] == [True] * len(told)
        assert all(record.levelno == (logging.WARNING if told == [seen] else logging.INFO) for record in said)
    caplog.clear()
    meta.unlink()
    next(evaluate(str(path), str(data)))
    assert "trained on" not in caplog.text


def test_without_a_record_of_its_texts_a_model_is_scored_on_all_rows(trained, tmp_path, caplog):
    """As one from the Hub, to which the record is not pushed."""
    model = tmp_path / "model"
    shutil.copytree(trained["full"], model, ignore=shutil.ignore_patterns("trained_texts.npy", "checkpoint-*"))
    write_jsonl(tmp_path / "own.jsonl", OWN)
    with caplog.at_level(logging.INFO):
        (result,) = evaluate(str(model), str(tmp_path / "own.jsonl"), decodings=["free"])
    assert result.contract.rows == 11
    (said,) = (record.message for record in caplog.records if "trained on" in record.message)
    assert said.startswith(f"it is not known which rows {model} was trained on")
    (model / "trained_texts.npy").write_bytes(b"no array")
    with pytest.raises(NerError) as error:
        next(evaluate(str(model), str(tmp_path / "own.jsonl")))
    assert error.value.place == model / "trained_texts.npy"
    assert "remove" in error.value.remedy


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 0.7}, {"min_score": 0.5}, {"thresholds": "auto"}, {"revision": "v2"}, {"dtype": "float16"},
        {"backend": "http://127.0.0.1:1/v1"}, {"batch_tokens": 7}, {"negatives": True},
        {"decodings": ("constrained",)},
    ],
    ids=str,
)  # fmt: skip
def test_a_file_of_predictions_is_scored_as_it_stands(option, tmp_path):
    """An option that would change nothing is refused, not printed beside the scores."""
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(f'{{"id": "{row.id}", "entities": []}}\n' for row in OWN), encoding="utf-8")
    write_jsonl(tmp_path / "own.jsonl", OWN)
    given = next(evaluate(str(path), str(tmp_path / "own.jsonl")))
    assert given.contract.decoding == "given"
    assert "ceiling" not in given.table(), "a file may say more than an answer in JSON can"
    assert given.to_dict()["ceiling"] is None
    with pytest.raises(NerError) as error:
        next(evaluate(str(path), str(tmp_path / "own.jsonl"), **option))
    assert error.value.place in option
    assert "give the model" in error.value.remedy
