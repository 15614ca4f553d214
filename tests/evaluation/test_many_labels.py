"""What an evaluation writes grows with the labels, not with their square; hostile labels are shown and do nothing."""

import json

import pytest

from qwen_ner.codec import Decoded
from qwen_ner.entities import Entity, Example, LabelSet, NerError
from qwen_ner.evaluation.report import PAIRS, write_report
from qwen_ner.evaluation.result import EvaluationResult
from qwen_ner.evaluation.scoring import score
from qwen_ner.evaluation.table import Contract


def evaluated(names, rows):
    """Each row has an entity of one label, found under the next label in every second row."""
    names = list(names)
    gold, predicted = [], []
    for n in range(rows):
        label, other = names[n % len(names)], names[(n + n % 2) % len(names)]
        gold.append(Example(str(n), "三星在北京", (Entity(label, "三星", 0, 2),)))
        predicted.append(Decoded((Entity(other, "三星", 0, 2),), ((other, "三星"),)))
    return EvaluationResult(Contract("m", "d", "dev", rows, "f", "free"), gold, predicted, LabelSet.of(names), gold)


def sizes(folder, labels):
    write_report(evaluated((f"label-{n:04}" for n in range(labels)), 600), folder)
    return {name: (folder / name).stat().st_size for name in ("report.html", "metrics.json")}


def test_twice_the_labels_take_at_most_twice_the_bytes(tmp_path):
    few, many = sizes(tmp_path / "few", 150), sizes(tmp_path / "many", 300)
    for name, size in many.items():
        assert size < 2 * few[name], name
        assert size < 2_000_000, name


def test_the_commonest_confusions_are_on_the_page_and_the_others_are_counted(tmp_path):
    found = evaluated((f"label-{n:04}" for n in range(300)), 600)
    write_report(found, tmp_path)
    wrong = {pair: n for pair, n in found.tally.confusion.items() if pair[0] != pair[1]}
    html = (tmp_path / "report.html").read_text()
    shown = [pair for pair in wrong if f"<td>{pair[0]}</td><td>{pair[1]}</td><td>{wrong[pair]}</td>" in html]
    assert len(shown) == PAIRS
    left = [wrong[pair] for pair in wrong if pair not in shown]
    assert f"and {len(left):,} more pairs, {sum(left):,} entities" in html
    written = json.loads((tmp_path / "metrics.json").read_text())["confusion"]
    assert {(gold, given): n for gold, row in written.items() for given, n in row.items()} == found.tally.confusion


def test_an_error_names_twenty_labels_and_counts_the_rest():
    labels = LabelSet.of(f"label-{n}" for n in range(1200))
    with pytest.raises(NerError) as caught:
        score([Example("0", "三星", (Entity("other", "三星", 0, 2),))], [Decoded()], labels)
    assert len(caught.value.what) < 400
    assert "and 1,180 more" in caught.value.what


HOSTILE = ["__proto__", "constructor", "\x1b[31mred", "a|b", " outer ", "长" * 1000, "<script>alert(1)</script>", "-"]


def test_hostile_labels_are_names_like_any_other(tmp_path):
    found = evaluated(HOSTILE, 16)
    write_report(found, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["surface"]) == HOSTILE
    assert all(metrics["metrics"][f"f1_{label}"] == found.scores.surface[label].f1 for label in HOSTILE)
    html = (tmp_path / "report.html").read_text()
    assert html.count("<script") == 1
    assert 'value=" outer "' in html
    assert all("\x1b" not in line for line in found.table().splitlines())
