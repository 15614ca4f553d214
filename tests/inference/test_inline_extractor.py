"""A model that was trained to mark entities in a copy of the text: what its users see is what JSON's users see."""

import json
import math
import re
from collections import defaultdict
from itertools import pairwise

import pytest
import torch
from rows import EIGHT, example

from qwen_ner import cli
from qwen_ner.codec import Decoded
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, Entity, TextFault
from qwen_ner.inference.annotated import confidences_in
from qwen_ner.inference.backends import decoding
from qwen_ner.inference.backends.base import Completion
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.sampling import vote
from qwen_ner.inline import INLINE_PROMPT, InlineCodec

TEXTS = [gold.text for gold in EIGHT]


@pytest.fixture(scope="module")
def extractor(trained):
    return Extractor.from_pretrained(trained["inline"])


def test_the_folder_says_what_answers_are_written_in(extractor, trained):
    assert NerConfig.load(trained["inline"]).target == "inline"
    assert isinstance(extractor.codec, InlineCodec)
    assert NerConfig.load(trained["full"]).target == "json"


def test_it_has_learned_and_each_entity_has_its_own_place(extractor):
    found = extractor.predict(TEXTS)
    for gold, decoded in zip(EIGHT, found, strict=True):
        assert decoded.problems == decoded.ungrounded == ()
        assert all(gold.text[e.start : e.end] == e.text and not e.ambiguous for e in decoded.entities)
        assert all(0 <= e.score <= 1 for e in decoded.entities)
        places = [e.span for e in decoded.entities]
        assert all(before[1] <= after[0] for before, after in pairwise(places))
    right = sum(len(set(gold.surfaces) & set(one.surfaces)) for gold, one in zip(EIGHT, found, strict=True))
    assert right > sum(len(set(gold.surfaces)) for gold in EIGHT) / 2


@pytest.mark.parametrize("constrained", [True, False])
def test_drafts_change_nothing_and_save_passes(extractor, constrained, monkeypatch):
    passes, forward = [], extractor.model.forward
    monkeypatch.setattr(
        extractor.model, "forward", lambda *args, **inputs: passes.append(1) or forward(*args, **inputs)
    )
    drafted = extractor.read(TEXTS[:4], constrained=constrained)
    with_drafts = len(passes)
    monkeypatch.setattr(decoding, "DRAFT_ROWS", 0)
    plain = extractor.read(TEXTS[:4], constrained=constrained)
    assert [one.scored({}) for one in drafted] == [one.scored({}) for one in plain]
    assert [one.logprob for one in drafted] == pytest.approx([one.logprob for one in plain], abs=1e-3)
    assert with_drafts < 0.7 * (len(passes) - with_drafts)


def test_a_confidence_is_the_probability_of_the_mark(extractor):
    """Of its opening, its surface, its label and its end, as one pass over prompt and answer gives them."""
    gold = example("王芳在深圳", ("name", "王芳"), ("address", "深圳"))
    answer = extractor.codec.encode(gold)
    assert answer == "[王芳 name]在[深圳 address]"
    (prompt,) = prompt_ids(extractor.tokenizer, extractor.codec, [gold.text])
    ids = extractor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = extractor.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].tolist()
    (found,) = confidences_in(extractor, [gold], [Decoded()])
    for pair, mark in ((("name", "王芳"), "[王芳 name]"), (("address", "深圳"), "[深圳 address]")):
        start, total = answer.index(mark), 0.0
        for at, logprob in enumerate(logprobs):
            first, last = (len(extractor.tokenizer.decode(ids[: at + n])) for n in (0, 1))
            total += logprob if first < start + len(mark) and last > start else 0.0
        assert found[pair] == pytest.approx(extractor.calibration(total), abs=1e-5)


def test_each_place_of_a_surface_has_its_own_confidence(extractor):
    text = "北京人在北京"
    answer = "[北京 address]人在[北京 address]"
    ids = extractor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    spelled = [extractor.tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1)]
    logprobs = [-0.25 if len(piece) <= len("[北京 address]") else -0.5 for piece in spelled]
    found = extractor._decode(text, [(Completion(ids, True, logprobs), None)])
    first, second = (
        extractor.calibration(found) for found in (logprobs.count(-0.25) * -0.25, sum_of(spelled, logprobs))
    )
    assert [(e.span, e.score) for e in found.entities] == [((0, 2), first), ((4, 6), second)]
    kept = found.scored_at_least(lambda _: (first + second) / 2)
    assert ([e.span for e in kept.entities], kept.surfaces) == ([(0, 2)], (("address", "北京"),))
    assert found.scored_at_least(lambda _: 1.1).surfaces == ()


def sum_of(spelled, logprobs):
    """The log-probability of the tokens of the second mark."""
    start = len("[北京 address]人在")
    return sum(logprob for piece, logprob in zip(spelled, logprobs, strict=True) if len(piece) > start)


def test_beams_begin_with_the_greedy_answer_and_their_scores_are_probabilities(extractor):
    assert extractor.predict(TEXTS, beams=1) == extractor.predict(TEXTS)
    limit = extractor.config.max_new_tokens
    guides = [extractor.grammar.constraint(text, limit) for text in TEXTS]
    searched = extractor.backend.search(prompt_ids(extractor.tokenizer, extractor.codec, TEXTS), limit, guides, 4)
    for text, beams, one in zip(TEXTS, searched, extractor.predict(TEXTS, beams=4, min_score=0.0), strict=True):
        expected = defaultdict(float)
        for completion, guide in beams:
            assert guide.closed
            for e in extractor.codec.decode(text, extractor.tokenizer.decode(completion.ids)).entities:
                expected[e.label, e.span] += math.exp(sum(completion.logprobs))
        found = {(e.label, e.span): e.score for e in one.entities}
        assert found == pytest.approx(expected, abs=1e-4)
        assert sum(completion.probability for completion, _ in beams) <= 1 + 1e-6


def test_votes_are_cast_for_places(extractor):
    text = "北京人在北京"
    written = ["北京人在[北京 address]", "[北京 address]人在[北京 address]", "北京人在[北京 address]"]
    answers = [extractor.codec.decode(text, one) for one in written]
    found = vote(text, answers, CLUENER, located=True)
    assert found.entities == (Entity("address", "北京", 4, 6, score=1.0),)
    both = vote(text, answers, CLUENER, 0.3, located=True)
    assert [(e.span, round(e.score, 2)) for e in both.entities] == [((0, 2), 0.33), ((4, 6), 1.0)]
    split = [extractor.codec.decode(text, one) for one in (written[0], "[北京 address]人在北京", "北京人在北京")]
    nothing = vote(text, split, CLUENER, located=True)
    assert (nothing.entities, nothing.surfaces) == ((), ()), "two of three have the surface, but no two a place"


def test_an_answer_that_is_cut_off_predicts_what_it_copied(extractor):
    text = TEXTS[0] * 3
    extractor = Extractor(extractor.backend, extractor.tokenizer, extractor.config)
    extractor.config = NerConfig(CLUENER, "找出实体", 12, extractor.config.end_token_ids, target="inline")
    (found,) = extractor.read([text])
    assert [problem.kind for problem in found.problems] == ["truncated"]
    assert all(text[e.start : e.end] == e.text for e in found.entities)


def test_a_text_whose_copy_does_not_fit_into_an_answer_is_read_in_shorter_windows(extractor):
    text = TEXTS[0] * 3
    limit = len(extractor.tokenizer(text)["input_ids"]) * 2 // 3
    shorter = Extractor(extractor.backend, extractor.tokenizer, extractor.config)
    shorter.config = NerConfig(CLUENER, "找出实体", limit, extractor.config.end_token_ids, target="inline")
    read = shorter.windows(text)
    assert [window.end - window.start for window in read][:1] == [len(text) // 2]
    assert (read[0].first, read[-1].last) == (0, len(text))
    (found,) = shorter.predict([text])
    assert found.problems == ()
    assert all(text[e.start : e.end] == e.text for e in found.entities)


def test_texts_that_no_prompt_can_hold_are_refused_as_in_json(extractor):
    for text in ("\ud800" * 200,):
        with pytest.raises(TextFault, match="surrogate"):
            extractor.extract([text])


def test_each_mark_has_its_own_score_whatever_else_is_written(extractor):
    text = "三星赢了，三星输了，华为没有"
    answer = "[三星 company]赢了，[三星 company]输了，[华为 brand]没有"
    decoded = extractor.codec.decode(text, answer)
    written = [(("company", "三星"), 0.9), (("company", "三星"), 0.2), (("brand", "华为"), 0.5)]
    assert [e.score for e in extractor.codec.scored(decoded, written).entities] == [0.9, 0.2]
    lost = extractor.codec.decode(text, "[三星 company]赢啦[三星 company][谷歌 company]")
    written[2] = ("company", "谷歌"), 0.5
    assert {e.score for e in extractor.codec.scored(lost, written).entities} == {0.9}, "their places are not known"


def test_a_recipe_chooses_it_and_its_prompt(tmp_path, capsys, caplog):
    """From the command line to entities, with the target's own prompt."""
    recipe = tmp_path / "recipe.yaml"
    rows = [{"text": gold.text, "entities": [vars_of(e) for e in gold.entities]} for gold in EIGHT] * 2
    for city in ("北京", "上海", "武汉"):
        nested = [entity("organization", f"{city}大学", 1), entity("address", city, 1)]
        rows.append({"text": f"去{city}大学", "entities": nested})
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    recipe.write_text(
        f"model_name_or_path: tiny\ndataset: {data}\ntarget: inline\nmax_steps: 2\nuse_cpu: true\nreport_to: none\n"
        f"output_dir: {tmp_path / 'out'}\n",
        encoding="utf-8",
    )
    cli.main(["train", str(recipe)])
    (said,) = (record.getMessage() for record in caplog.records if "overlap" in record.getMessage())
    assert re.search(r"\d of \d+ entities to train on overlap another: target inline leaves them out", said)
    capsys.readouterr()
    config = NerConfig.load(tmp_path / "out")
    assert (config.target, config.system_prompt) == ("inline", INLINE_PROMPT)
    cli.main(["predict", str(tmp_path / "out"), "--text", TEXTS[0]])
    assert json.loads(capsys.readouterr().out)["text"] == TEXTS[0]


def entity(label, surface, start):
    return {"label": label, "text": surface, "start": start, "end": start + len(surface)}


def vars_of(e):
    return entity(e.label, e.text, e.start)
