import json

import pytest
from rows import EIGHT

from qwen_ner.codec import Codec, entity_row
from qwen_ner.entities import Entity, Example, LabelSet, NerError
from qwen_ner.evaluation.report import write_report
from qwen_ner.evaluation.result import EvaluationResult
from qwen_ner.evaluation.table import Contract
from qwen_ner.inference.compare import compare
from qwen_ner.inference.evaluate import evaluate


def write(path, examples, predicted):
    """A predictions file as an evaluation writes it: `predicted` of each example's entities."""
    with path.open("w", encoding="utf-8") as file:
        for n, gold in enumerate(examples):
            rows = [entity_row(entity) for entity in gold.entities]
            line = {"id": str(n), "text": gold.text, "entities": rows[predicted], "gold": rows}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return str(path)


def test_two_sets_of_predictions_are_compared(tmp_path):
    a = write(tmp_path / "a.jsonl", EIGHT, slice(None))
    b = write(tmp_path / "b.jsonl", EIGHT, slice(1, None))
    assert "f1  100.00   63.16  -36.84" in compare(a, b)
    assert "f1  100.00  100.00   +0.00" in compare(a, a)


def test_a_split_of_no_data_is_refused(tmp_path):
    a = write(tmp_path / "a.jsonl", EIGHT, slice(None))
    with pytest.raises(NerError, match="without data"):
        compare(a, a, split="test")


def test_predictions_for_other_rows_are_refused(tmp_path):
    a = write(tmp_path / "a.jsonl", EIGHT, slice(None))
    for other in (write(tmp_path / "b.jsonl", EIGHT[:5], slice(None)), str(tmp_path / "none*")):
        with pytest.raises(NerError) as caught:
            compare(a, other)
        assert caught.value.place == other


@pytest.mark.parametrize("beside", [True, False], ids=["a report", "the file alone"])
def test_scores_are_those_of_the_evaluation_where_gold_lacks_a_label(beside, tmp_path):
    """A label that is predicted and never right counts in the mean of the labels."""
    gold = [Example(str(n), "阿司匹林治头痛", (Entity("drug", "阿司匹林", 0, 4),)) for n in range(4)]
    codec = Codec(LabelSet.of(["drug", "symptom"]))
    for name, answer in ("a", '{"drug": ["阿司匹林"]}'), ("b", '{"drug": ["阿司匹林"], "symptom": ["头痛"]}'):
        predicted = [codec.decode(example.text, answer) for example in gold]
        contract = Contract("model", "data", "dev", len(gold), "0", "free")
        write_report(EvaluationResult(contract, gold, predicted=predicted, labels=codec.labels), tmp_path / name)
        expected = json.loads((tmp_path / name / "metrics.json").read_text(encoding="utf-8"))["metrics"]
        if not beside:
            (tmp_path / name / "metrics.json").unlink()
        (again,) = evaluate(str(tmp_path / name / "predictions.jsonl"), str(write_gold(tmp_path, gold)), "train")
        assert again.scores.metrics()["macro_f1"] == expected["macro_f1"] == {"a": 1, "b": 0.5}[name]
    assert "macro_f1  100.00   50.00  -50.00" in compare(str(tmp_path / "a"), str(tmp_path / "b"))


def test_the_metrics_of_another_model_in_the_folder_are_not_those_of_a_file(tmp_path):
    (tmp_path / "metrics.json").write_text('{"labels": ["animal"]}', encoding="utf-8")
    assert "f1_animal" not in compare(*[write(tmp_path / "a.jsonl", EIGHT, slice(None))] * 2)
    named = write(tmp_path / "predictions.jsonl", EIGHT, slice(None))
    assert "f1_animal" in compare(named, str(tmp_path))


def test_without_any_entity_nothing_is_compared(tmp_path):
    path = write(tmp_path / "a.jsonl", [Example("0", "无")], slice(None))
    with pytest.raises(NerError, match="no entity"):
        compare(path, path)


def write_gold(folder, gold):
    path = folder / "gold.jsonl"
    rows = ({"id": e.id, "text": e.text, "entities": [entity_row(one) for one in e.entities]} for e in gold)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
