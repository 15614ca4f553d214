"""A place to generate is one class and one line: a toy one, asked by everything that extracts."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from rows import EIGHT

from qwen_ner.contract import NerConfig
from qwen_ner.data.datasets import read_texts, write_jsonl
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.asked import TextTooLong
from qwen_ner.inference.backends.base import BACKENDS, Backend, Completion
from qwen_ner.inference.batch_predict import stream
from qwen_ner.inference.evaluate import evaluate
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.sampling import Sampling


class Lookup(Backend):
    """Answers each prompt that a table has, and `{}` to any other; keeps to constraints, and gives no probabilities."""

    max_length = 512

    def __init__(self, answers, end):
        self.answers, self.end = answers, end

    @classmethod
    def load(cls, folder, tokenizer, config, *, device=None, dtype=None):
        table = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        answers = {text: tokenizer(answer, add_special_tokens=False)["input_ids"] for text, answer in table.items()}
        cls.tokenizer = tokenizer
        return cls(answers, config.end_token_ids[0])

    def complete(self, prompts, limit, constraints=None, **options):
        completions = []
        for n, prompt in enumerate(prompts):
            asked = self.tokenizer.decode(prompt)
            wanted = next((ids for text, ids in self.answers.items() if text in asked), [])
            ids = wanted or self.tokenizer("{}", add_special_tokens=False)["input_ids"]
            if constraints:
                ids = list(self.constrained([*ids, self.end], constraints[n]))
            completions.append(Completion(ids[:limit], len(ids) <= limit))
        return completions

    def constrained(self, wanted, constraint):
        for token in wanted:
            taken = token if constraint.allows(token) else constraint.allowed()[0]
            constraint.advance(taken)
            if taken == self.end:
                return
            yield taken
        while not constraint.closed:
            yield (taken := constraint.allowed()[0])
            constraint.advance(taken)


@pytest.fixture
def folder(tiny, codec, tmp_path, monkeypatch):
    """A trained folder with a lookup table for weights, and the line that registers what reads it."""
    monkeypatch.setitem(BACKENDS, "lookup", f"{__name__}:Lookup")
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    answers = {gold.text: codec.encode(gold) for gold in EIGHT}
    (tmp_path / "model" / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    NerConfig(CLUENER, codec.system_prompt, 128, (2, 0)).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("constrained", [True, False])
def test_the_extractor_runs_on_a_backend_of_a_stranger(folder, constrained):
    extractor = Extractor.from_pretrained(folder, backend="lookup")
    assert isinstance(extractor.backend, Backend)
    found = extractor.predict([*(gold.text for gold in EIGHT), "无"], constrained=constrained, progress=True)
    assert [decoded.surfaces for decoded in found] == [*(gold.surfaces for gold in EIGHT), ()]
    assert {entity.score for decoded in found for entity in decoded.entities} == {None}
    with pytest.raises(TextTooLong) as caught:
        extractor.extract(["长" * 500])
    assert "384" in caught.value.faults[0], "the room that the backend has"


@pytest.mark.parametrize(("place", "value"), [("min_score", 0.5), ("thresholds", "auto")])
def test_what_has_no_score_is_not_kept_in_silence_where_scores_decide(folder, place, value):
    extractor = Extractor.from_pretrained(folder, backend="lookup")
    extractor.config = replace(extractor.config, calibration={"thresholds": {"name": 0.5}})
    with pytest.raises(NerError, match="no probabilities") as caught:
        extractor.extract([gold.text for gold in EIGHT], **{place: value})
    assert (caught.value.place, caught.value.value) == (place, value)
    assert any(extractor.extract([gold.text for gold in EIGHT], min_score=0.0)), "left out, as the remedy says"


class Part:
    """A text that waits, and what it was answered."""

    def __init__(self, text):
        self.text, self.share, self.answers, self.gone = text, 0.5, [], False

    def cancelled(self):
        return self.gone

    def answer(self, found, tokens):
        self.answers.append(found)
        self.tokens = tokens


def predict_counting(extractor, texts, **options):
    """What is predicted of `texts`, and the tokens of their prompts, each once, and of all answers."""
    complete, written = extractor.backend.complete, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            extractor.backend, "complete", lambda *given, **more: written.extend(complete(*given, **more)) or written
        )
        found = extractor.predict(texts, **options)
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, texts)
    return found, sum(map(len, prompts)) + sum(len(one.ids) for one in written)


@pytest.mark.parametrize("backend", ["lookup", "torch"])
def test_serving_finds_what_predict_finds_also_where_nobody_can_join_a_batch(folder, tiny, backend):
    if backend == "torch":
        shutil.copy(tiny / "model.safetensors", folder)
    extractor = Extractor.from_pretrained(folder, backend=backend)
    texts = [*(gold.text for gold in EIGHT), "无"]
    expected, tokens = predict_counting(extractor, texts)
    parts, given = [Part(text) for text in texts], []

    def feed(room):
        given.append(parts[len(given) * 4 : len(given) * 4 + 4])
        return given[-1]

    extractor.serve(feed)
    for part, wanted in zip(parts, expected, strict=True):
        (found,) = part.answers
        assert [(e.label, e.start, e.end) for e in found.entities] == [
            (e.label, e.start, e.end) for e in wanted.entities
        ]
        assert [e.score for e in found.entities] == pytest.approx([e.score for e in wanted.entities], abs=2e-4)
    assert sum(part.tokens for part in parts) == tokens
    if backend == "lookup":
        assert [len(some) for some in given] == [4, 4, 1, 0]


def test_each_text_that_is_served_gets_the_vote_of_its_own_draws(trained):
    extractor = Extractor.from_pretrained(trained["full"])
    texts, sampling = [gold.text for gold in EIGHT], Sampling(3, 1.5, 0.95)
    expected, tokens = predict_counting(extractor, texts, **asdict(sampling))
    assert len({entity.score for found in expected for entity in found.entities}) > 1
    parts = [Part(text) for text in texts]
    waiting = [parts[:1], parts[1:6], parts[6:]]
    extractor.serve(lambda room: waiting.pop(0) if waiting else [], sampling=sampling, batch_tokens=2000)
    assert [part.answers for part in parts] == [[found] for found in expected]
    assert sum(part.tokens for part in parts) == tokens


def test_a_text_that_nobody_waits_for_any_more_gets_no_vote(trained):
    """Also if some of its answers had been written; those beside it get theirs."""
    extractor = Extractor.from_pretrained(trained["full"])
    sampling = Sampling(4, 5.0, 1.0)  # answers of very different lengths
    parts, calls = [Part(gold.text) for gold in EIGHT], []

    def feed(room):
        calls.append(room)
        parts[2].gone = len(calls) > 8
        return parts if len(calls) == 1 else []

    extractor.serve(feed, sampling=sampling)
    expected = extractor.predict([part.text for part in parts], **asdict(sampling))
    assert parts[2].answers == [None]
    others = [n for n in range(len(parts)) if n != 2]
    assert [parts[n].answers for n in others] == [[expected[n]] for n in others]


def test_evaluation_and_batch_prediction_run_on_it_too(folder, tmp_path):
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "dev.jsonl", [replace(gold, id=str(n)) for n, gold in enumerate(EIGHT)])
    for evaluated in evaluate(str(folder), str(tmp_path / "data"), backend="lookup"):
        assert evaluated.scores.micro.f1 == 1.0
    out = tmp_path / "out.jsonl"
    rows = read_texts([gold.text.encode() for gold in EIGHT], "in.txt")
    assert stream(Extractor.from_pretrained(folder, backend="lookup"), rows, out) == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [{(e["label"], e["text"]) for e in line["entities"]} for line in lines] == [set(g.surfaces) for g in EIGHT]


def test_the_extractor_loads_no_torch_by_itself():
    """What runs the model is injected: a backend without torch needs none."""
    code = "import sys, qwen_ner.inference.extractor; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_an_unknown_backend_is_refused_with_those_there_are(folder):
    with pytest.raises(NerError) as caught:
        Extractor.from_pretrained(folder, backend="vlm")
    assert (caught.value.place, caught.value.value) == ("backend", "vlm")
    assert "torch" in caught.value.remedy
