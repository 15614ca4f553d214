"""What is worth annotating next: the laws of the selection, and that its uncertainty is the model's own."""

import gc
import io
import json
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rows import EIGHT

from qwen_ner.codec import Decoded
from qwen_ner.data.analysis.duplicates import grams
from qwen_ner.data.convert import convert
from qwen_ner.data.datasets import TextRow, read_texts
from qwen_ner.data.formats import jsonl
from qwen_ner.data.formats.label_studio import read as read_tasks
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import Entity, NerError
from qwen_ner.inference import select as module
from qwen_ner.inference.asked import TextTooLong
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.select import COVERED, for_excel, select, spread, write


class Scripted(Extractor):
    """Is as sure of a text as it is told; finds its first character; refuses those with a 😀."""

    def __init__(self, logprobs):
        self.logprobs, self.asked = logprobs, []

    def predict(self, texts, **options):
        if faults := {i: "too long" for i, text in enumerate(texts) if "😀" in text}:
            raise TextTooLong(faults)
        self.asked += [text for text in texts if text]
        return [
            Decoded((Entity("x", text[0], 0, 1, 0.5),), (("x", text[0]),), (), self.logprobs[text])
            if text
            else Decoded()
            for text in texts
        ]


def rows(texts):
    return iter([TextRow(str(n), text, f"in.txt:{n}") for n, text in enumerate(texts, start=1)])


def different(number):
    """So many texts that have no three characters in common."""
    return ["".join(chr(0x4E00 + 5 * n + k) for k in range(5)) for n in range(number)]


@given(st.permutations(range(12)), st.integers(1, 15))
def test_texts_that_have_nothing_in_common_come_least_certain_first(order, count):
    texts = different(12)
    logprobs = dict(zip(texts, (-float(n) for n in order), strict=True))
    chosen = select(Scripted(logprobs), rows(texts), count).chosen
    assert [one.text for one in chosen] == sorted(texts, key=logprobs.get)[:count]


@given(st.lists(st.text("一二三四五", min_size=1, max_size=6), max_size=40), st.integers(1, 12), st.randoms())
def test_as_many_as_asked_come_back_none_twice_none_excluded_in_a_fixed_order(texts, count, random):
    logprobs = {text: -random.randrange(4) / 4 for text in texts}
    exclude = texts[::5]
    found = select(Scripted(logprobs), rows(texts), count, exclude=exclude)
    chosen = [one.text for one in found.chosen]
    left = {*texts} - {*exclude}
    assert len(chosen) == len({*chosen}) == min(count, len(left))
    assert {*chosen} <= left
    assert [logprobs[text] for text in chosen] == sorted(logprobs[text] for text in chosen)
    assert found.read == len(texts) == found.excluded + found.repeated + len(left)
    again = select(Scripted(logprobs), rows(texts), count, exclude=exclude)
    assert again == found


def test_texts_that_differ_in_punctuation_width_and_case_are_one():
    texts = ["三星WCG，北京", "三星ｗｃｇ北京。", "苹果！"]
    found = select(Scripted(dict.fromkeys(texts, -1.0)), rows(texts), 3, exclude=["苹果"])
    assert [one.text for one in found.chosen] == texts[:1]
    assert (found.repeated, found.excluded) == (1, 1)


def test_a_text_mostly_made_of_what_is_chosen_waits_until_nothing_else_is_left():
    texts = ["我在北京买了三星手机", "我在北京买了三星电视", "玩了一晚上魔兽争霸"]
    logprobs = dict(zip(texts, (-3.0, -2.0, -1.0), strict=True))
    first, second = (grams(text, 3) for text in texts[:2])
    assert len(second & first) / len(second) > COVERED
    two = select(Scripted(logprobs), rows(texts), 2).chosen
    assert [one.text for one in two] == [texts[0], texts[2]]
    assert [one.text for one in select(Scripted(logprobs), rows(texts), 3).chosen] == texts


def test_a_text_waits_if_more_than_half_of_it_is_in_all_that_are_chosen_together():
    half = "二三四五"
    assert [gram in grams("一二三四", 3) for gram in ("二三四", "三四五")] == [True, False]
    assert grams(half, 3) == {"二三四", "三四五"}
    assert spread(["一二三四", half, "玩了一晚上"], 2) == [0, 1]
    both = "一二三四六七八九"  # two of its six 3-grams are in the first text, two in the second
    assert spread(["一二三四五", "六七八九十", both, "玩了一晚上"], 3) == [0, 1, 3]
    assert spread(["一二三四五", "六七八九十", both, "玩了一晚上"], 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_what_is_held_does_not_grow_with_the_file_and_nothing_depends_on_the_chunks(monkeypatch, chunk):
    monkeypatch.setattr(module, "ROWS", chunk)
    texts = different(300)
    logprobs = {text: -random.Random(text).random() for text in texts}
    extractor, held = Scripted(logprobs), []

    def watched():
        for n, row in enumerate(rows(texts)):
            if n % 50 == 0:
                held.append(sum(isinstance(one, module.Candidate) for one in gc.get_objects()))
            yield row

    found = select(extractor, watched(), 2)
    assert [one.text for one in found.chosen] == sorted(texts, key=logprobs.get)[:2]
    assert max(held) <= module.POOL * 2 + 1
    assert chunk == 512 or max(held) >= module.POOL * 2, "what is counted is what is held"
    assert sorted(extractor.asked) == sorted(texts), "each is read once"


def test_what_cannot_be_read_is_left_out_and_counted():
    lines = ['{"id": "a", "text": "三星"}', '{"id": "b"}', '{"id": "c", "text": "北京😀"}', "no JSON"]
    given = read_texts([line.encode() for line in lines], "in.jsonl")
    found = select(Scripted({"三星": -1.0}), given, 5)
    assert [one.id for one in found.chosen] == ["a"]
    assert sum(found.left_out.counts.values()) == 3
    (places,) = found.left_out.places.values()
    assert [place.split(": ")[0] for place in places] == ["in.jsonl:2", "in.jsonl:3", "in.jsonl:4"]


def test_without_probabilities_nothing_can_be_chosen():
    with pytest.raises(NerError) as caught:
        select(Scripted({"三星": None}), rows(["三星"]), 1)
    assert caught.value.place == "--engine"
    assert "grammar" in caught.value.remedy


def test_ids_that_repeat_or_number_lines_are_replaced_by_the_places_of_their_rows(tmp_path, caplog):
    given = [TextRow("7", "三星", "a.jsonl:1"), TextRow("7", "苹果", "a.jsonl:2"), TextRow("8", "小米", "a.jsonl:3")]
    given.append(TextRow("4", "华为", "a.jsonl:4"))
    chosen = select(Scripted({"三星": -3.0, "苹果": -2.0, "小米": -1.0, "华为": -0.5}), iter(given), 4).chosen
    write(tmp_path / "rows.jsonl", chosen, "m")
    written = [json.loads(line)["id"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert written == ["a.jsonl:1", "a.jsonl:2", "8", "a.jsonl:4"]
    assert "2 texts" in caplog.text


@pytest.fixture(scope="module")
def extractor(trained):
    return Extractor.from_pretrained(trained["full"])


TEXTS = [gold.text for gold in EIGHT]


def test_the_probability_is_that_of_the_whole_answer_the_empty_one_too(extractor, monkeypatch):
    complete, written = extractor.backend.complete, []
    monkeypatch.setattr(extractor.backend, "complete", lambda *a, **o: written.extend(complete(*a, **o)) or written)
    predicted = extractor.predict(TEXTS)
    assert any(not decoded.surfaces for decoded in predicted)
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, TEXTS)
    for prompt, completion, decoded in zip(prompts, written, predicted, strict=True):
        answer = torch.tensor(completion.ids)
        with torch.no_grad():
            logits = extractor.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        total = logits.log_softmax(-1)[torch.arange(len(answer)), answer].sum()
        assert decoded.logprob == pytest.approx(float(total), abs=1e-3)


def test_of_a_text_in_windows_it_is_that_of_the_least_certain_one(extractor):
    text = "。".join([*TEXTS, ""])
    parts = [text[window.start : window.end] for window in extractor.windows(text)]
    assert len(parts) > 1
    (whole,) = extractor.predict([text])
    assert whole.logprob == pytest.approx(min(decoded.logprob for decoded in extractor.predict(parts)), abs=1e-4)


def test_several_drawn_answers_have_no_probability(extractor):
    (decoded,) = extractor.predict(TEXTS[:1], samples=3, temperature=0.7)
    assert decoded.logprob is None


def test_what_is_chosen_comes_back_from_both_tools_with_the_entities_that_were_predicted(extractor, tmp_path, caplog):
    found = select(extractor, rows(TEXTS), 8)
    predicted = dict(zip(TEXTS, extractor.extract(TEXTS), strict=True))
    tasks, others = tmp_path / "tasks.json", [tmp_path / f"rows.{form}" for form in ("jsonl", "csv", "xlsx")]
    for path in (tasks, *others):
        write(path, found.chosen, "model")
    assert not caplog.records, "nothing that an annotator needs is lost"
    made = json.loads(tasks.read_text(encoding="utf-8"))
    scores = [task["predictions"][0]["score"] for task in made]
    assert scores == sorted(scores)
    assert all(0 <= score <= 1 for score in scores)
    for task in made:
        (prediction,) = task.pop("predictions")
        assert prediction["model_version"] == "model"
        for result in prediction["result"]:
            value = result["value"]
            assert task["data"]["text"][value["start"] : value["end"]] == value["text"]
        assert "annotations" not in task
        task["annotations"] = [{"result": prediction["result"]}]  # as Label Studio does for who submits it unchanged
    submitted = tmp_path / "submitted.json"
    submitted.write_text(json.dumps(made), encoding="utf-8")
    for name in (submitted, *others):
        convert(str(name), tmp_path / "out.jsonl")
        back = list(jsonl.read(tmp_path / "out.jsonl"))
        assert [(row.id, row.text) for row in back] == [(one.source, one.text) for one in found.chosen]
        assert all(row.entities == one.entities or name in others for row, one in zip(back, found.chosen, strict=True))
        for row in back:
            assert [(e.label, e.span) for e in row.entities] == [(e.label, e.span) for e in predicted[row.text]]
    assert [row.id for row in read_tasks(submitted)] == [one.source for one in found.chosen]


def test_scores_keep_the_order_however_small_they_are(tmp_path):
    texts = different(4)
    logprobs = dict(zip(texts, (-40.0, -30.0, -29.0, -0.1), strict=True))
    write(tmp_path / "tasks.json", select(Scripted(logprobs), rows(texts), 4).chosen, "m")
    scores = [task["predictions"][0]["score"] for task in json.loads((tmp_path / "tasks.json").read_text())]
    assert scores == sorted({*scores})
    assert scores == pytest.approx([math.exp(logprobs[text]) for text in texts], rel=1e-3)


def test_without_a_file_rows_are_printed(extractor, capsys):
    found = select(extractor, rows(TEXTS), 2)
    write(None, found.chosen, "model")
    lines = [json.loads(line) for line in io.StringIO(capsys.readouterr().out)]
    assert [line["text"] for line in lines] == [one.text for one in found.chosen]


def test_a_text_that_no_cell_of_excel_holds_is_left_out_before_it_is_read(tmp_path):
    texts = ["三星在北京", "店长\x0b李明", "长" * 32_768, "长" * 32_767]
    extractor = Scripted(dict.fromkeys(texts, -1.0))
    found = select(extractor, map(for_excel, rows(texts)), 4)
    write(tmp_path / "rows.xlsx", found.chosen, "m")
    assert [one.text for one in found.chosen] == extractor.asked == [texts[0], texts[3]]
    assert sum(found.left_out.counts.values()) == 2
    assert "in.txt:2: a cell of Excel" in str(found.left_out)
