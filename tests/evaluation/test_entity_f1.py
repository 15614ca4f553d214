"""The `evaluate` face of scoring says what `score` says, offline, in order, and without files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_ner.codec import Codec
from qwen_ner.entities import Entity, Example, LabelSet, NerError
from qwen_ner.evaluation import scoring
from qwen_ner.inline import CODECS

LABELS = ["address", "company"]
FILE = Path(scoring.__file__).with_name("entity_f1.py")

GOLD = [
    Example("0", "三星在北京", (Entity("company", "三星", 0, 2), Entity("address", "北京", 3, 5))),
    Example("1", "你好"),
    Example("2", "上海", (Entity("address", "上海", 0, 2),)),
]
COMPLETIONS = ['{"company":["三星","苹果"],"city":["北京"]}', "{}", '{"address":["上']
FINISHED = [True, True, False]


def references(gold: list[Example]) -> list[dict]:
    return [
        {"text": g.text, "entities": [{"label": e.label, "start": e.start, "end": e.end} for e in g.entities]}
        for g in gold
    ]


def by_score(gold: list[Example], completions: list[str], finished: list[bool]) -> dict:
    labels = LabelSet.of(LABELS)
    decoded = [
        Codec(labels).decode(g.text, completion, finished=whole)
        for g, completion, whole in zip(gold, completions, finished, strict=True)
    ]
    return scoring.score(gold, decoded, labels).metrics()


@pytest.fixture
def metric(tmp_path):
    from qwen_ner.evaluation.entity_f1 import EntityF1

    return EntityF1(cache_dir=str(tmp_path))


def test_it_says_what_score_says(metric):
    found = metric.compute(predictions=COMPLETIONS, references=references(GOLD), labels=LABELS, finished=FINISHED)
    assert found == by_score(GOLD, COMPLETIONS, FINISHED)
    assert (found["tp"], found["fp"], found["fn"]) == (1, 2, 2)
    assert (found["truncated"], found["not_json"]) == (1, 0)


def test_completions_may_be_marks_in_a_copy_of_the_text(metric):
    codec = CODECS["inline"](LabelSet.of(LABELS))
    completions = [codec.encode(example) for example in GOLD]
    found = metric.compute(predictions=completions, references=references(GOLD), labels=LABELS, target="inline")
    assert (found["f1"], found["span_f1"]) == (1.0, 1.0)
    with pytest.raises(NerError, match=r"target.*xml.*json or inline"):
        metric.compute(predictions=completions, references=references(GOLD), labels=LABELS, target="xml")


def test_without_finished_every_completion_counts_as_finished(metric):
    found = metric.compute(predictions=COMPLETIONS, references=references(GOLD), labels=LABELS)
    assert (found["truncated"], found["not_json"]) == (0, 1)


def test_rows_keep_their_order_past_arrow_s_batch_and_without_entities_in_the_first(metric):
    """Arrow writes a thousand rows at a time; the first two batches have only empty lists to infer a type from."""
    texts = [f"第{row}号北京" for row in range(2500)]
    gold = [
        Example(str(row), text, (Entity("address", text[1:], 1, len(text)),) if row >= 2000 else ())
        for row, text in enumerate(texts)
    ]
    # Right in its own row only: each completion holds the number of its row.
    completions = [Codec(LabelSet.of(LABELS)).encode(g) for g in gold]
    finished = [row % 3 > 0 for row in range(2500)]
    completions[::3] = ["{"] * len(completions[::3])
    found = metric.compute(predictions=completions, references=references(gold), labels=LABELS, finished=finished)
    assert found == by_score(gold, completions, finished)
    assert (found["truncated"], found["not_json"]) == (len(completions[::3]), 0)
    assert (found["fp"], found["fn"]) == (0, len([row for row in range(2000, 2500) if row % 3 == 0]))


def test_added_in_batches_is_computed_at_once(metric):
    metric.add_batch(predictions=COMPLETIONS[:2], references=references(GOLD[:2]))
    metric.add(prediction=COMPLETIONS[2], reference=references(GOLD)[2])
    assert metric.compute(labels=LABELS, finished=FINISHED) == by_score(GOLD, COMPLETIONS, FINISHED)


def test_no_entity_and_no_row_at_all_score_zero(metric):
    found = metric.compute(predictions=["{}"] * 3, references=references([GOLD[1]] * 3), labels=LABELS)
    assert found == by_score([GOLD[1]] * 3, ["{}"] * 3, [True] * 3)
    assert metric.compute(predictions=[], references=[], labels=LABELS) == by_score([], [], [])


def test_ranks_that_share_a_cache_never_meet_in_a_file(tmp_path):
    from qwen_ner.evaluation.entity_f1 import EntityF1

    ranks = [EntityF1(cache_dir=str(tmp_path)) for _ in range(3)]
    for rank in ranks:
        rank.add_batch(predictions=COMPLETIONS, references=references(GOLD))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert [rank.compute(labels=LABELS, finished=FINISHED) for rank in ranks] == [
        by_score(GOLD, COMPLETIONS, FINISHED)
    ] * 3


def test_faults_are_named_with_their_row(metric):
    outside = {"text": "你好", "entities": [{"label": "address", "start": 0, "end": 5}]}
    lacking = {"text": "你好"}
    endless = {"text": "你好", "entities": [{"label": "address", "start": 0}]}
    for place, predictions, given, labels in (
        ("references[1]", ["{}"] * 2, [references(GOLD)[0], outside], LABELS),
        ("references[0]", ["{}"], references(GOLD[:1]), ["drug"]),
        ("references[1]", ["{}"] * 2, [references(GOLD)[0], lacking], LABELS),
        ("references[1]", ["{}"] * 2, [references(GOLD)[0], endless], LABELS),
        ("predictions[1]", ["{}", None], references(GOLD[:2]), LABELS),
    ):
        with pytest.raises(NerError) as caught:
            metric.compute(predictions=predictions, references=given, labels=labels)
        assert caught.value.place == place
    with pytest.raises(NerError) as caught:
        metric.compute(predictions=COMPLETIONS, references=references(GOLD), labels=LABELS, finished=[True, True])
    assert (caught.value.place, caught.value.value) == ("finished", 2)
    with pytest.raises(ValueError, match=r"predictions \(1\) and references \(2\)"):
        metric.compute(predictions=["{}"], references=references(GOLD[:2]), labels=LABELS)
    assert metric.compute(predictions=["{}"], references=references(GOLD[:1]), labels=LABELS)["rows"] == 1


OFFLINE = """
import json, socket, sys

def refuse(*_):
    raise AssertionError("a metric that is loaded from its file has no need of the network")

socket.socket.connect = refuse
import evaluate

path, given = sys.argv[1], json.load(sys.stdin)
metric = evaluate.load(path)
assert metric.keep_in_memory and metric.name == "entity_f1", (metric.keep_in_memory, metric.name)
json.dump(metric.compute(**given), sys.stdout)
"""


def test_evaluate_loads_the_file_offline(tmp_path):
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(FILE.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    for variable in ("HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE"):
        environment.pop(variable, None)
    given = {"predictions": COMPLETIONS, "references": references(GOLD), "labels": LABELS, "finished": FINISHED}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(FILE)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == by_score(GOLD, COMPLETIONS, FINISHED)
    assert list(tmp_path.rglob("entity_f1.py")), "evaluate copied the file into a cache other than the one given"
