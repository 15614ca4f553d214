import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rows import EIGHT

from qwen_ner.codec import Decoded, Problem
from qwen_ner.data.datasets import read_texts
from qwen_ner.data.formats.predictions import iter_predictions
from qwen_ner.entities import Entity, LabelSet, NerError, TextFault
from qwen_ner.inference import batch_predict
from qwen_ner.inference.asked import TextTooLong
from qwen_ner.inference.backends.base import EngineDown
from qwen_ner.inference.batch_predict import predict_each, stream
from qwen_ner.inference.extractor import Extractor

TEXTS = [gold.text for gold in EIGHT]


class Marked(Extractor):
    """Finds the first character of every text, refuses those with a 😀, and remembers what it was asked."""

    def __init__(self, window=0):
        self.asked, self.config = [], SimpleNamespace(window=window)

    def predict(self, texts, **options):
        faults = {i: "too long" for i, text in enumerate(texts) if "😀" in text}
        if faults:
            raise TextTooLong(faults)
        self.asked += texts
        return [
            Decoded(
                (Entity("x", text[:1], 0, 1, score=0.98765, ambiguous=True),),
                (("x", text[:1]),),
                (Problem("duplicate", "a"),),
            )
            if text
            else Decoded()
            for text in texts
        ]


class Refusing(Marked):
    """Is refused by its server if there is an ✗ among the texts, without being told in which of them."""

    def predict(self, texts, **options):
        found = super().predict(texts, **options)  # what is too long is told before any other is read
        if any("✗" in text for text in texts):
            raise TextFault("the server refused (HTTP 400)", place="http://host/v1")
        return found


def test_a_text_that_a_server_refuses_has_an_error_and_the_others_are_read():
    texts = ["一", "✗二", "三😀", "四", "✗五", "六", "七"]
    found = predict_each(Refusing(), texts)
    assert ["refused" in one if isinstance(one, str) else one.entities[0].text for one in found] == [
        "一", True, False, "四", True, "六", "七",
    ]  # fmt: skip


def test_a_server_that_is_down_has_no_text_to_blame():
    class Down(Marked):
        def predict(self, texts, **options):
            self.asked.append(texts)
            raise EngineDown("no answer")

    down = Down()
    with pytest.raises(EngineDown):
        predict_each(down, ["一", "二"])
    assert len(down.asked) == 1


def rows():
    return read_texts((text.encode() + b"\n" for text in TEXTS), "in.txt")


def test_each_text_becomes_a_line_in_order_with_its_problems():
    out = io.StringIO()
    assert stream(Marked(), rows(), out) == 1
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["id"] for line in lines] == [str(i + 1) for i in range(8)]
    assert lines[6] == {"id": "7", "error": "in.txt:7: too long"}
    entity = {"label": "x", "text": "我", "start": 0, "end": 1, "score": 0.9877, "ambiguous": True}
    problem = {"kind": "duplicate", "label": "", "value": "a"}
    assert lines[0] == {"id": "1", "text": TEXTS[0], "entities": [entity], "problems": [problem]}


def test_what_has_no_place_counts_when_the_lines_are_scored(tmp_path, monkeypatch):
    written = Decoded((), (("x", "苹果"),), (Problem("not_in_text", "苹果", "x"),))
    monkeypatch.setattr(Marked, "predict", lambda self, texts, **options: [written for _ in texts])
    stream(Marked(), rows(), tmp_path / "out.jsonl")
    gold = [replace(row, id=str(number)) for number, row in enumerate(EIGHT, start=1)]
    assert list(iter_predictions(tmp_path / "out.jsonl", gold)) == [written] * 8


def test_half_a_character_in_an_answer_is_written_as_an_escape(tmp_path, monkeypatch):
    half = Decoded(problems=(Problem("not_json", "三\ud83d"),))
    monkeypatch.setattr(Marked, "predict", lambda self, texts, **options: [half for _ in texts])
    stream(Marked(), rows(), tmp_path / "out.jsonl")
    first = (tmp_path / "out.jsonl").read_bytes().decode().partition("\n")[0]
    assert json.loads(first)["problems"][0]["value"] == "三\ud83d"


def test_how_many_texts_were_read_in_windows_is_said(caplog):
    stream(Marked(), rows(), io.StringIO())
    assert "windows" not in caplog.text
    window = sorted(map(len, TEXTS))[4]
    stream(Marked(window), rows(), io.StringIO())
    long = sum(len(text) > window for text in TEXTS)
    assert f"{long} of 8 texts are longer than {window} characters" in caplog.text


@pytest.mark.parametrize("cut", [0, 10, 200, 400, -1])
def test_what_is_done_is_not_done_again_and_the_whole_is_the_same(tmp_path, monkeypatch, cut):
    """Cut anywhere, in the middle of a line too."""
    monkeypatch.setattr(batch_predict, "ROWS", 3)
    whole = tmp_path / "whole.jsonl"
    refused = stream(Marked(), rows(), whole)
    file = tmp_path / "out.jsonl"
    file.write_bytes(whole.read_bytes()[:cut])
    extractor = Marked()
    kept = file.read_bytes().count(b"\n")
    assert stream(extractor, rows(), file) == refused
    assert file.read_bytes() == whole.read_bytes()
    assert not set(extractor.asked) & {text for text in TEXTS[:kept]}


def test_lines_of_other_texts_are_not_mixed_with_these(tmp_path):
    file = tmp_path / "out.jsonl"
    stream(Marked(), read_texts([b"\xe4\xb8\x89", b"b"], "other.txt"), file)
    before = file.read_bytes()
    with pytest.raises(NerError) as caught:
        stream(Marked(), rows(), file)
    assert caught.value.place == f"{file}:1"
    assert file.read_bytes() == before
    file.write_bytes(b"no JSON\n")
    with pytest.raises(NerError) as caught:
        stream(Marked(), rows(), file)
    assert caught.value.place == f"{file}:1"


def test_an_output_that_holds_more_than_the_input_is_another_one(tmp_path):
    file = tmp_path / "out.jsonl"
    stream(Marked(), rows(), file)
    with pytest.raises(NerError) as caught:
        stream(Marked(), read_texts([text.encode() for text in TEXTS[:2]], "in.txt"), file)
    assert caught.value.place == f"{file}:3"


def test_an_id_that_cannot_stand_in_a_submission_is_an_error_in_its_line():
    extractor = Marked()
    extractor.config.labels = LabelSet.of(["x"])
    given = read_texts([b'{"id": "3b", "text": "a"}', b'{"id": 4, "text": "b"}'], "in.jsonl")
    out = io.StringIO()
    assert stream(extractor, given, out, submission=True) == 1
    wrong, right = [json.loads(line) for line in out.getvalue().splitlines()]
    assert wrong["id"] == "3b"
    assert wrong["error"].startswith("in.jsonl:1: ")
    assert right == {"id": 4, "label": {"x": {"b": [[0, 0]]}}}
    assert "a" not in extractor.asked, "no answer to it could be written"
