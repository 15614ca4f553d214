"""Laws of scoring: it adds up, it forgets the order, it agrees with scorers written from the definitions."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from evaluation.cases import random_rows

from qwen_ner.codec import PROBLEM_KINDS, Codec, Decoded, Problem
from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError
from qwen_ner.evaluation.bootstrap import Interval, rates, row_counts
from qwen_ner.evaluation.scoring import Counts, Scores, score
from qwen_ner.evaluation.table import Contract, few_note, table

ABC = LabelSet.of(["a", "b", "c"])
LETTERS = "甲乙丙丁"


def example(text: str, *spans: tuple[str, int, int], source: str = "") -> Example:
    return Example("0", text, tuple(Entity(label, text[start:end], start, end) for label, start, end in spans), source)


def scores_of(gold: list[Example], completions: list[str], labels: LabelSet = ABC, **options) -> Scores:
    codec = Codec(labels)
    return score(gold, [codec.decode(g.text, c) for g, c in zip(gold, completions, strict=True)], labels, **options)


def random_case(seed: int, rows: int = 6) -> tuple[list[Example], list[str]]:
    """Short texts over few letters, so that surfaces recur and nest; completions that are right, wrong and broken."""
    rng = random.Random(seed)
    gold, completions = [], []
    for _ in range(rows):
        text = "".join(rng.choices(LETTERS, k=rng.randint(1, 8)))
        spans = set()
        for _ in range(rng.randint(0, 4)):
            start = rng.randrange(len(text))
            spans.add((rng.choice(ABC.names), start, min(len(text), start + rng.randint(1, 3))))
        gold.append(example(text, *spans))
        written: dict[str, list[str]] = {}
        for label, surface in gold[-1].surfaces:
            if rng.random() < 0.6:
                written.setdefault(label, []).append(surface)
        for _ in range(rng.randint(0, 3)):
            label = rng.choice((*ABC.names, "x"))
            written.setdefault(label, []).append("".join(rng.choices(LETTERS, k=rng.randint(1, 2))))
        completions.append(json.dumps(written, ensure_ascii=False) if rng.random() < 0.9 else '{"a":["甲')
    return gold, completions


@pytest.fixture
def documents() -> tuple[list[Example], list[Decoded]]:
    gold, completions = random_case(0, rows=20)
    return gold, [Codec(ABC).decode(g.text, c) for g, c in zip(gold, completions, strict=True)]


def test_rates_follow_from_the_counts():
    counts = Counts(tp=2, fp=1, fn=2)
    assert counts.precision == 2 / 3
    assert counts.recall == 2 / 4
    assert counts.f1 == 2 * 2 / (2 * 2 + 1 + 2)
    assert counts.support == 4


def test_rates_are_zero_where_they_are_undefined():
    assert (Counts().precision, Counts().recall, Counts().f1) == (0.0, 0.0, 0.0)


def test_one_example_in_both_views():
    gold = [example("三星在北京和北京", ("a", 0, 2), ("b", 3, 5), ("b", 6, 8), ("c", 6, 7))]
    scores = scores_of(gold, ['{"a":["三星"],"b":["北京"],"c":["三"]}'])
    assert scores.surface == {"a": Counts(1, 0, 0), "b": Counts(1, 0, 0), "c": Counts(0, 1, 1)}
    assert scores.span == {"a": Counts(1, 0, 0), "b": Counts(2, 0, 0), "c": Counts(0, 1, 1)}
    assert scores.precision == scores.recall == scores.f1 == 2 / 3
    assert scores.span_f1 == 3 / 4
    assert scores.macro_f1 == (1 + 1 + 0) / 3


def test_scores_add_over_documents(documents):
    gold, predicted = documents
    train = gold[::2]

    def part(rows: slice) -> Scores:
        return score(gold[rows], predicted[rows], ABC, train=train)

    assert part(slice(7)) + part(slice(7, None)) == part(slice(None))
    assert part(slice(0)) + part(slice(None)) == part(slice(None))


def test_no_rate_changes_when_every_document_is_given_twice(documents):
    gold, predicted = documents
    once, twice = score(gold, predicted, ABC), score(gold * 2, predicted * 2, ABC)
    assert (twice.f1, twice.span_f1, twice.macro_f1) == (once.f1, once.span_f1, once.macro_f1)


def test_the_order_of_rows_changes_nothing(documents):
    pairs = list(zip(*documents, strict=True))
    random.Random(1).shuffle(pairs)
    assert score([g for g, _ in pairs], [p for _, p in pairs], ABC) == score(*documents, ABC)


def test_gold_against_itself_is_perfect():
    gold = [example("三星在北京", ("a", 0, 2), ("b", 3, 5)), example("你好"), example("北京", ("c", 0, 1))]
    scores = scores_of(gold, [Codec(ABC).encode(g) for g in gold])
    assert scores.f1 == scores.precision == scores.recall == scores.span_f1 == scores.macro_f1 == 1.0
    assert scores.problems == dict.fromkeys(PROBLEM_KINDS, 0)


def test_any_gold_is_perfect_against_its_own_entities():
    for seed in range(50):
        gold, _ = random_case(seed)
        itself = score(gold, [Decoded(g.entities, g.surfaces) for g in gold], ABC)
        assert itself.micro == Counts(tp=sum(len(g.surfaces) for g in gold))
        assert itself.span_micro == Counts(tp=sum(len(g.entities) for g in gold))


def test_predicting_nothing_scores_zero():
    gold = [example("三星", ("a", 0, 2)), example("北京", ("b", 0, 2))]
    scores = scores_of(gold, ["{}", "{}"])
    assert (scores.f1, scores.span_f1, scores.macro_f1) == (0.0, 0.0, 0.0)
    assert scores.micro == scores.span_micro == Counts(fn=2)


@pytest.mark.parametrize("rows", [0, 3])
def test_neither_gold_nor_prediction_scores_zero_and_never_nan(rows):
    metrics = score([example("你好")] * rows, [Decoded()] * rows, ABC, train=set()).metrics()
    assert metrics.pop("rows") == rows
    assert set(metrics.values()) == {0}


@pytest.mark.parametrize("completion", ['{"a":["三星"', "三星", "", "[]", '"a"', "null"])
def test_an_unparseable_row_misses_all_its_gold(completion):
    scores = scores_of([example("三星在北京", ("a", 0, 2), ("b", 3, 5))], [completion])
    assert scores.micro == scores.span_micro == Counts(fn=2)
    assert sum(scores.problems.values()) == 1


def test_what_is_not_in_the_text_stays_a_false_positive_in_both_views():
    scores = scores_of([example("三星", ("a", 0, 2))], ['{"a":["三星","苹果"]}'])
    assert scores.surface["a"] == scores.span["a"] == Counts(tp=1, fp=1)
    assert scores.problems["not_in_text"] == 1
    assert scores.precision == 1 / 2


def test_an_unknown_label_is_a_false_positive_of_its_own_and_outside_of_the_macro_mean():
    scores = scores_of([example("三星三星", ("a", 0, 2), ("a", 2, 4))], ['{"a":["三星"],"z":["三星"]}'])
    assert scores.surface == {"a": Counts(tp=1), "b": Counts(), "c": Counts(), "z": Counts(fp=1)}
    assert scores.span == {"a": Counts(tp=2), "b": Counts(), "c": Counts(), "z": Counts(fp=1)}
    assert scores.f1 == 2 / 3
    assert (scores.macro_f1, scores.averaged) == (1.0, ("a",))
    assert "f1_z" not in scores.metrics()


def test_an_entity_is_written_whether_or_not_its_surface_is_listed():
    gold = example("三星在北京", ("a", 0, 2))
    entities = (Entity("a", "三星", 0, 2), Entity("b", "北京", 3, 5))
    scores = score([gold], [Decoded(entities)], ABC)
    assert scores == score([gold], [Decoded(entities, (("a", "三星"), ("b", "北京")))], ABC)
    assert scores.micro == scores.span_micro == Counts(tp=1, fp=1)


def test_unknown_labels_come_last_and_by_name_in_sums_too():
    gold = [example("三星")]
    parts = [scores_of(gold, [f'{{"{label}":["三星"]}}']) for label in "zyx"]
    assert list(sum(parts[1:], parts[0]).surface) == [*"abc", *"xyz"]


def test_problems_are_counted_by_kind():
    decoded = Decoded(
        problems=(Problem("duplicate", "x", "a"), Problem("duplicate", "y", "a"), Problem("wrong_type", "1"))
    )
    problems = score([example("三星")], [decoded], ABC).problems
    assert problems == {**dict.fromkeys(PROBLEM_KINDS, 0), "duplicate": 2, "wrong_type": 1}


def test_seen_and_unseen_split_the_surface_view():
    train = [example("三星在首尔", ("a", 0, 2), ("b", 3, 5))]
    gold = [example("三星在北京", ("a", 0, 2), ("b", 3, 5))]
    completion = '{"a":["三星"],"b":["首尔","天津"]}'
    scores = scores_of(gold, [completion], train=train)
    assert scores.seen == Counts(tp=1, fp=1)
    assert scores.unseen == Counts(fp=1, fn=1)
    assert scores == scores_of(gold, [completion], train={("a", "三星"), ("b", "首尔")})
    metrics = scores.metrics()
    assert (metrics["seen_f1"], metrics["seen_support"]) == (2 / 3, 1)
    assert (metrics["unseen_f1"], metrics["unseen_support"]) == (0.0, 1)
    assert not any(key.startswith(("seen", "unseen")) for key in scores_of(gold, [completion]).metrics())


def surface_by_sets(gold: list[Example], predicted: list[Decoded]) -> dict[str, Counts]:
    """The surface view from its definition: a set of (row, label, surface) for each side, counted by label."""
    wanted = {(row, e.label, g.text[e.start : e.end]) for row, g in enumerate(gold) for e in g.entities}
    written = {(row, *pair) for row, d in enumerate(predicted) for pair in d.surfaces}
    tp, all_written, all_wanted = (Counter(k[1] for k in s) for s in (wanted & written, written, wanted))
    return {x: Counts(tp[x], all_written[x] - tp[x], all_wanted[x] - tp[x]) for x in {*ABC.names, *all_written}}


def span_by_merging(gold: list[Example], predicted: list[Decoded]) -> dict[str, Counts]:
    """The span view as seqeval's strict mode counts it: tp, predicted and true by label. Merges two sorted lists."""
    wanted = sorted((e.label, row, e.start, e.end, "") for row, g in enumerate(gold) for e in g.entities)
    written = sorted(
        [(e.label, row, e.start, e.end, "") for row, d in enumerate(predicted) for e in d.entities]
        + [
            (label, row, -1, -1, surface)
            for row, d in enumerate(predicted)
            for label, surface in d.surfaces
            if label not in ABC or surface not in gold[row].text
        ]
    )
    tp: Counter[str] = Counter()
    i = j = 0
    while i < len(wanted) and j < len(written):
        if wanted[i] == written[j]:
            tp[wanted[i][0]] += 1
        step = wanted[i] <= written[j], wanted[i] >= written[j]
        i, j = i + step[0], j + step[1]
    predicted_sum, true_sum = Counter(key[0] for key in written), Counter(key[0] for key in wanted)
    return {
        x: Counts(tp[x], predicted_sum[x] - tp[x], true_sum[x] - tp[x]) for x in {*ABC.names, *predicted_sum, *true_sum}
    }


def test_a_thousand_random_cases_agree_with_scorers_written_from_the_definitions():
    met: Counter[str] = Counter()
    for seed in range(1000):
        gold, completions = random_case(seed)
        train, _ = random_case(seed + 1000)
        predicted = [Codec(ABC).decode(g.text, c) for g, c in zip(gold, completions, strict=True)]
        scores = score(gold, predicted, ABC, train=train)
        assert scores.surface == surface_by_sets(gold, predicted), seed
        assert scores.span == span_by_merging(gold, predicted), seed
        assert scores.seen + scores.unseen == scores.micro, seed
        met.update(scores.problems)
        met.update(tp=scores.span_micro.tp, unknown=scores.span.get("x", Counts()).fp)
    assert all(met[kind] for kind in ("tp", "unknown", "not_json", "unknown_label", "not_in_text"))


def official_macro_f1(gold: list[dict], predicted: list[dict]) -> float:
    """CLUENER's definition, on rows of its own form, {label: {surface: spans}}: precision and recall of each label over
    the whole data set, their harmonic mean, the plain mean of those."""
    f1s = []
    for label in CLUENER.names:
        rows = [(set(g.get(label, {})), set(p.get(label, {}))) for g, p in zip(gold, predicted, strict=True)]
        hits = sum(len(g & p) for g, p in rows)
        precision = hits / sum(len(p) for _, p in rows)
        recall = hits / sum(len(g) for g, _ in rows)
        f1s.append(2 * precision * recall / (precision + recall))
    return sum(f1s) / len(CLUENER.names)


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_the_one_that_cluener_defines(seed):
    rng = random.Random(seed)
    surfaces = ["北京", "三星", "魔兽", "上海"]
    text = "".join(surfaces)
    gold, predicted = [], []
    for _ in range(60):
        gold.append({name: rng.sample(surfaces, rng.randint(0, 2)) for name in CLUENER.names})
        predicted.append(
            {name: [s for s in surfaces if (s in row) == (rng.random() < 0.8)] for name, row in gold[-1].items()}
        )
    examples = [
        example(text, *((label, text.index(s), text.index(s) + len(s)) for label, row in g.items() for s in row))
        for g in gold
    ]
    ours = scores_of(examples, [json.dumps(p, ensure_ascii=False) for p in predicted], CLUENER)

    def as_files(rows: list[dict]) -> list[dict]:
        return [{label: {s: [[0, 1]] for s in row} for label, row in g.items() if row} for g in rows]

    assert ours.macro_f1 == pytest.approx(official_macro_f1(as_files(gold), as_files(predicted)), abs=1e-12)
    assert 0 < ours.macro_f1 < 1


def test_a_label_that_occurs_nowhere_is_outside_of_the_mean_and_the_table_says_so():
    """One label of many annotated: micro and macro are the same figure, whatever else the label set has."""
    for seed in range(50):
        gold, predicted = random_rows(seed)
        few, wide = score(gold, predicted, ABC), score(gold, predicted, LabelSet.of([*"abcdefg"]))
        assert few.macro_f1 == wide.macro_f1
        assert few.averaged == wide.averaged == tuple(x for x in "abc" if few.surface[x] != Counts())
        assert wide.metrics()["macro_labels"] == len(few.averaged)
        line = next(line for line in table(wide).splitlines() if line.startswith("macro_f1"))
        assert line.endswith(f"(mean of {len(few.averaged)} of 7 labels: those in gold or predictions)")


def test_cluener_s_mean_is_over_its_ten_labels_and_the_table_says_how_many_count_as_0():
    gold = [example("三星", ("company", 0, 2))]
    shuffled = LabelSet.of(reversed(CLUENER.names))
    for labels in (CLUENER, shuffled):
        scores = scores_of(gold, ['{"company":["三星"]}'], labels)
        assert (scores.f1, scores.macro_f1, scores.metrics()["macro_labels"]) == (1.0, 0.1, 10)
        assert "(mean of all 10 labels: 9 in neither gold nor predictions count as 0)" in table(scores)
        right = [Decoded(gold[0].entities)]
        assert rates(row_counts(gold, right, labels).sum(0), labels.names)["macro_f1"] == pytest.approx(0.1)
    nine = LabelSet.of(CLUENER.names[:9])
    assert scores_of(gold, ['{"company":["三星"]}'], nine).macro_f1 == 1.0


def test_a_label_s_name_is_not_taken_for_a_line_of_the_table_and_cannot_write_to_the_terminal():
    labels = LabelSet.of(["f1", "seen", "macro_f1", "\x1b[31m红\n", "长" * 500, "__proto__"])
    gold = [example("三星北京", ("f1", 0, 2), ("__proto__", 2, 4), ("长" * 500, 1, 3))]
    scores = scores_of(gold, ["{}"], labels, train={("f1", "三星")})
    rates_of = ("f1_f1", "f1_seen", "f1_macro_f1", "f1", "seen_f1", "macro_f1")
    known = {name: Interval(n / 10, n / 10) for n, name in enumerate(rates_of)}
    shown = table(scores, None, known)
    assert "\x1b" not in shown
    assert "\\x1b[31m红\\n" in shown
    assert max(map(columns, shown.splitlines()[:-1])) < 150
    of = {line.split()[0]: line for line in shown.splitlines() if line.startswith(("f1 ", "seen ", "macro_f1 "))}
    assert [f"{n}0.0 – {n}0.0" in of[name] for n, name in ((3, "f1"), (4, "seen"), (5, "macro_f1"))] == [True] * 3


def test_scores_survive_json(documents):
    scores = score(*documents, ABC, train=documents[0][:5])
    written = json.loads(json.dumps(scores.to_dict(), ensure_ascii=False))
    assert Scores.from_dict(written) == scores
    assert written["metrics"] == scores.metrics()
    assert written["span"]["a"]["f1"] == scores.span["a"].f1
    without = score(*documents, ABC)
    assert Scores.from_dict(json.loads(json.dumps(without.to_dict()))) == without


def test_metrics_are_flat_and_named():
    keys = list(score([], [], CLUENER, train=set()).metrics())
    assert keys == [
        *("f1", "precision", "recall", "span_f1", "span_precision", "span_recall", "macro_f1", "macro_labels"),
        *(f"f1_{name}" for name in CLUENER.names),
        *("seen_f1", "unseen_f1", "seen_support", "unseen_support"),
        *("tp", "fp", "fn", "rows"),
        *PROBLEM_KINDS,
    ]


def test_lengths_must_agree():
    with pytest.raises(NerError, match="2 predictions") as caught:
        score([example("三星")] * 2, [Decoded()], ABC)
    assert caught.value.value == 1


def test_gold_outside_of_the_label_set_is_an_error_with_its_place():
    gold = [example("三星"), example("三星", ("drug", 0, 2), source="dev.json:2")]
    with pytest.raises(NerError, match="a, b, c") as caught:
        score(gold, [Decoded()] * 2, ABC)
    assert (caught.value.place, caught.value.value) == ("dev.json:2", "drug")


def test_scores_of_different_kinds_do_not_add_up():
    with pytest.raises(NerError) as caught:
        score([], [], ABC) + score([], [], LabelSet.of(["d"]))
    assert caught.value.value == "d"
    with pytest.raises(NerError) as caught:
        score([], [], ABC) + score([], [], ABC, train=set())
    assert "`train`" in caught.value.remedy


def test_a_file_that_holds_no_scores_is_named_by_what_it_lacks():
    broken = score([], [], ABC).to_dict()
    del broken["span"]
    with pytest.raises(NerError) as caught:
        Scores.from_dict(broken)
    assert caught.value.place == "span"


def columns(line: str) -> int:
    """Terminal columns of a line whose only wide characters are Chinese."""
    return sum(2 if "\u4e00" <= char <= "\u9fff" else 1 for char in line)


@pytest.mark.parametrize("bare", [True, False])
def test_every_line_of_the_table_ends_in_the_same_column(bare):
    labels = LabelSet.of(["地点", "company", "很长很长的标签名称"])
    gold = [example("三星在北京", ("company", 0, 2), ("地点", 3, 5))] * 1234
    scores = scores_of(gold, ['{"地点":["北京"],"怪":["三星"]}'] * 1234, labels, train=set())
    known = None if bare else dict.fromkeys((*scores.metrics(), "macro_f1"), Interval(0.5, 1.0))
    contract = Contract("outputs/x", "folder", "dev", 1234, "f00d", "free", 0.5, "auto")
    title, views, header, *body, problems = table(scores, contract, known).splitlines()
    assert (
        title == "outputs/x on folder dev: 1,234 rows, fingerprint f00d, free decoding, min score 0.5, thresholds auto"
    )
    assert "free decoding (5 answers a text), min score 0.5, " in str(
        dataclasses.replace(contract, sampling="5 answers a text")
    )
    assert all(view in views for view in ("f1:", "span_f1:", "macro_f1:"))
    names = [line.split()[0] for line in body]
    assert names == [*labels.names, "unknown", "-" * columns(header), "f1", "span_f1", "macro_f1", "unseen"]
    assert {columns(line) for line in body if not line.startswith("macro_f1")} == {columns(header)}
    macro = next(line for line in body if line.startswith("macro_f1"))
    rate, note = macro.split("  (")
    assert columns(rate.removesuffix("50.0 – 100.0").rstrip()) == columns(header[: header.index("f1") + 2])
    assert note == "mean of 2 of 3 labels: those in gold or predictions)"
    assert body[0].split() == ["地点", *["100.00"] * 3, *([] if bare else ["50.0", "–", "100.0"]), "1,234"]
    assert sum("50.0 – 100.0" in line for line in body) == (
        0 if bare else len(body) - 2
    )  # not of unknown, and the line
    assert problems == "problems: 1,234 unknown label"


def test_the_table_is_silent_about_what_was_not_asked_or_not_met():
    lines = table(scores_of([example("三星")], ["{}"])).splitlines()
    assert lines[0].split() == ["precision", "recall", "f1", "support"]
    assert [line.split()[0] for line in lines[1:-1]] == ["a", "b", "c", lines[4], "f1", "span_f1", "macro_f1"]


def test_seen_and_unseen_have_a_line_if_they_have_entities_or_errors():
    rows = [example("三星在北京", ("a", 0, 2), ("b", 3, 5))]

    def named(train):
        lines = table(scores_of(rows, ['{"c":["在"]}'], train=train)).splitlines()
        return [line.split()[0] for line in lines if "seen" in line]

    assert named({("a", "三星")}) == ["seen", "unseen"]
    assert named(set()) == ["unseen"]
    assert named({("a", "三星"), ("b", "北京")}) == ["seen", "unseen"], "else the lines do not add up to f1"


@pytest.mark.parametrize(("rows", "said"), [(29, "only 29 surfaces to score: "), (30, "")])
def test_intervals_of_few_entities_have_a_caution(rows, said):
    scores = scores_of([example("三星", ("a", 0, 2))] * rows, ['{"a":["三星"]}'] * rows)
    *_, problems, last = table(scores, None, {"f1": Interval(1.0, 1.0)}).splitlines()
    assert (last if problems == "problems: none" else "").startswith(said)
    assert bool(few_note(scores)) is bool(said)
    assert "only" not in table(scores), "without intervals there is nothing to be careful with"


@pytest.fixture(scope="module")
def cluener() -> dict[str, list[Example]]:
    if not (folder := os.environ.get("QWEN_NER_DATA")):
        pytest.skip("QWEN_NER_DATA names no folder with CLUENER's train.json and dev.json")

    def read(name: str) -> list[Example]:
        lines = (Path(folder) / name).read_text(encoding="utf-8").splitlines()
        return [cluener_example(json.loads(line)) for line in lines]

    return {"train": read("train.json"), "dev": read("dev.json")}


def cluener_example(row: dict) -> Example:
    spans = [(x, start, end + 1) for x, found in row["label"].items() for at in found.values() for start, end in at]
    return example(row["text"], *spans)


def test_grounding_the_gold_surfaces_of_cluener_dev_finds_all_but_its_ambiguous_places(cluener):
    dev, codec = cluener["dev"], Codec(CLUENER)
    scores = score(dev, [codec.decode(g.text, codec.encode(g)) for g in dev], CLUENER, train=cluener["train"])
    assert scores.rows == 1343
    assert scores.micro == Counts(tp=2982)
    assert scores.f1 == scores.macro_f1 == 1.0
    assert round(scores.span_f1, 4) == 0.9964
    assert scores.span_micro.support == 3072
    assert round(scores.seen.support / 2982, 3) == 0.616
    assert not any(scores.problems.values())
