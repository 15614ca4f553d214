"""What a model thinks of an annotation that it does not write: the probability of its tokens, as the model gives it."""

import json
import math
from dataclasses import replace

import pytest
import torch
from rows import EIGHT, example

from qwen_ner.codec import Decoded
from qwen_ner.data.analysis.corrections import Corrections, propose
from qwen_ner.data.analysis.disagreement import predictions_by_text
from qwen_ner.data.analysis.findings import write_findings
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.inference.annotated import Dictated, confidences_in, prediction_lines
from qwen_ner.inference.calibration import Calibration
from qwen_ner.inference.extractor import Extractor


@pytest.fixture(scope="module")
def extractor(trained):
    return Extractor.from_pretrained(trained["full"])


def by_one_pass(extractor, gold):
    """The log-probability of each token of the target, by one pass of the model over prompt and target."""
    (prompt,) = prompt_ids(extractor.tokenizer, extractor.codec, [gold.text])
    answer = extractor.tokenizer(extractor.codec.encode(gold), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = extractor.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return answer, logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].tolist()


def test_the_confidence_is_that_of_the_tokens_from_the_surface_before_to_its_own_end(extractor):
    wrong = [
        example(EIGHT[0].text, ("scene", "北京"), ("game", "三星手机")),
        example(EIGHT[2].text),
        example(EIGHT[7].text, ("address", "上海"), ("address", "苹果店")),
    ]
    found = confidences_in(extractor, wrong, [Decoded()] * 3)
    assert [set(scores) for scores in found] == [set(gold.surfaces) for gold in wrong]
    for gold, scores in zip(wrong, found, strict=True):
        ids, logprobs = by_one_pass(extractor, gold) if gold.entities else ([], [])
        written = extractor.codec.encode(gold)
        ends = {pair: written.index(f'{pair[1]}"') + len(pair[1]) + 1 for pair in gold.surfaces}
        for pair, end in ends.items():
            start = max([e for e in ends.values() if e < end], default=0)
            total = 0.0
            for at, logprob in enumerate(logprobs):
                first = len(extractor.tokenizer.decode(ids[:at]))
                last = len(extractor.tokenizer.decode(ids[: at + 1]))
                total += logprob if first < end and last > start else 0.0
            assert scores[pair] == pytest.approx(extractor.calibration(total), abs=1e-5)


def test_only_what_the_model_does_not_write_is_asked(extractor):
    predicted = extractor.predict([gold.text for gold in EIGHT])
    found = confidences_in(extractor, EIGHT, predicted)
    for gold, said, scores in zip(EIGHT, predicted, found, strict=True):
        assert set(scores) == set(gold.surfaces) - set(said.surfaces)
        assert all(0 <= score <= 1 for score in scores.values())


def test_an_answer_or_text_that_does_not_fit_is_not_asked(extractor):
    long = example("在北京，" * 40, ("address", "北京"))
    assert len(extractor.windows(long.text)) > 1
    many = example("".join(chr(0x4E00 + n) for n in range(30)), *[("name", chr(0x4E00 + n)) for n in range(0, 30, 2)])
    assert confidences_in(extractor, [long, many], [Decoded()] * 2) == [None, None]
    assert confidences_in(extractor, [long], [Decoded(surfaces=(("address", "北京"),))]) == [{}], "nothing to ask"


def test_a_text_that_does_not_fit_has_an_error_and_the_others_are_judged(trained):
    extractor = Extractor.from_pretrained(trained["full"])
    extractor.config = replace(extractor.config, window=None)
    fitting, overlong = prediction_lines(extractor, [EIGHT[0], example("好" * 6000, ("name", "好"), id="long")])
    assert (fitting["text"], set(fitting)) == (EIGHT[0].text, {"id", "text", "entities", "annotated"})
    assert (overlong["id"], set(overlong)) == ("long", {"id", "error"})


def test_what_is_dictated_is_read_to_its_end(extractor):
    """A fresh answer of the model and its own answer dictated have the same log-probabilities."""
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, [gold.text for gold in EIGHT[:4]])
    free = extractor.backend.complete(prompts, 48)
    dictated = extractor.backend.complete(prompts, 48, [Dictated(one.ids) for one in free])
    for one, other in zip(free, dictated, strict=True):
        assert list(one.ids) == list(other.ids)
        assert all(
            math.isclose(a, b, abs_tol=1e-4)
            for a, b in zip(one.logprobs[: len(other.ids)], other.logprobs, strict=True)
        )


def test_wrong_annotations_are_corrected_by_a_model_that_knows_better(extractor, tmp_path, monkeypatch):
    """One label is changed, one entity left out, one cut: each is proposed, and nothing else."""
    right = [replace(gold, id=str(n)) for n, gold in enumerate(EIGHT[:7])]
    wrong = [
        example(right[0].text, ("address", "北京"), ("game", "三星"), id="0"),
        example(right[1].text, id="1"),
        right[2],
        example(right[3].text, ("position", "店长"), ("name", "明"), ("scene", "西湖"), id="3"),
        *right[4:],
    ]
    sharper = Calibration(scale=6.0)  # how sure the toy becomes in its few steps depends on the CPU
    monkeypatch.setattr(extractor, "calibration", sharper)
    lines = "".join(json.dumps(row) + "\n" for row in prediction_lines(extractor, wrong))
    (tmp_path / "folds.jsonl").write_text(lines, encoding="utf-8")
    found = propose(wrong, [predictions_by_text(tmp_path / "folds.jsonl", wrong)])
    assert {(f.example.id, f.kind) for f in found} == {
        ("0", "label"),
        ("1", "added"),
        ("3", "boundary"),
    }
    write_findings(tmp_path / "proposed.jsonl", found)
    assert list(Corrections(tmp_path / "proposed.jsonl").apply(wrong)) == right
