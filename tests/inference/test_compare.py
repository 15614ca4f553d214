import json

import pytest
from rows import EIGHT

from qwen_ner.codec import entity_row
from qwen_ner.entities import NerError
from qwen_ner.inference.compare import compare


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


def test_predictions_for_other_rows_are_refused(tmp_path):
    a = write(tmp_path / "a.jsonl", EIGHT, slice(None))
    for other in (write(tmp_path / "b.jsonl", EIGHT[:5], slice(None)), str(tmp_path / "none*")):
        with pytest.raises(NerError) as caught:
            compare(a, other)
        assert caught.value.place == other
