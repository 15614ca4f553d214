"""The table of worst rows: which rows, in which order, and that nothing written is left out."""

from rows import EIGHT

from qwen_ner.codec import Codec
from qwen_ner.entities import CLUENER, fingerprint
from qwen_ner.evaluation.result import EvaluationResult
from qwen_ner.evaluation.table import Contract
from qwen_ner.training.tracking import wandb_run
from qwen_ner.training.tracking.wandb_run import WORST_COLUMNS, worst_rows


def evaluated(completions):
    codec = Codec(CLUENER)
    gold = EIGHT[: len(completions)]
    predicted = [codec.decode(row.text, text or codec.encode(row)) for row, text in zip(gold, completions, strict=True)]
    return EvaluationResult(Contract("m", "d", "dev", len(gold), fingerprint(gold), "free"), gold, predicted, CLUENER)


def test_only_rows_with_errors_and_those_with_most_first(monkeypatch):
    found = evaluated([None, "{}", None, "not JSON"])
    rows = worst_rows(found)
    assert all(len(row) == len(WORST_COLUMNS) for row in rows)
    assert [(row[0], row[4]) for row in rows] == [(EIGHT[3].text, 3), (EIGHT[1].text, 1)]
    monkeypatch.setattr(wandb_run, "WORST", 1)
    assert worst_rows(found) == rows[:1]
    assert rows[0][1:4] == [
        "position 店长 [0, 2)\nname 李明 [2, 4)\nscene 西湖 [8, 10)",
        "(not_json)",
        "not JSON: position 店长 [0, 2)\nnot JSON: name 李明 [2, 4)\nnot JSON: scene 西湖 [8, 10)",
    ]


def test_what_has_no_place_in_the_text_is_shown_too():
    (row,) = worst_rows(evaluated(['{"address":["北京"],"company":["三星手机"],"name":["王五"]}']))
    assert row[2] == "address 北京 [2, 4)\ncompany 三星手机 [6, 10)\nname 王五 [-]\n(not_in_text)"
    assert row[3] == "boundary: company 三星 [6, 8) ≠ company 三星手机 [6, 10)\nnot in text: name 王五"
    assert row[4] == 3
