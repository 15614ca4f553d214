"""Laws of duplicates: typing differences do not count, and looking up finds what comparing all with all finds."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.data.analysis import duplicates
from qwen_ner.data.analysis.duplicates import bare, groups_of_alike, leaks, near_duplicates
from qwen_ner.data.datasets import read_dataset
from qwen_ner.entities import Example

texts = st.text("甲乙丙丁戊a1", min_size=1, max_size=12)


def rows(*texts):
    return [Example(str(n), text) for n, text in enumerate(texts)]


WIDE = {ord("a"): "ａ", ord("1"): "１"}


@given(texts, st.lists(st.sampled_from("，。！ 　《》·~+"), max_size=4))
def test_width_case_punctuation_and_spaces_do_not_count(text, marks):
    typed = (
        "".join(mark + char for mark, char in zip(marks + [""] * len(text), text, strict=False)).upper().translate(WIDE)
    )
    assert bare(typed) == bare(text)
    assert [(a.text, b.text) for a, b in leaks(rows(text), rows(typed))] == [(text, typed)]


@given(st.lists(texts, max_size=8), st.lists(texts, max_size=8))
def test_leaks_are_the_rows_held_out_that_train_has(train, held_out):
    found = leaks(rows(*train), rows(*held_out))
    known = {bare(text) for text in train}
    assert [b.text for _, b in found] == [text for text in held_out if bare(text) in known]
    assert all(bare(a.text) == bare(b.text) for a, b in found)


def jaccard(one, other):
    a, b = ({t[i : i + 2] for i in range(max(1, len(t) - 1))} for t in (one, other))
    return len(a & b) / len(a | b)


@given(st.lists(texts, max_size=14), st.sampled_from([0.5, 0.7, 0.9, 1.0]))
def test_looking_up_finds_what_comparing_all_finds(texts, similar):
    with mock.patch.object(duplicates, "SIMILAR", similar):
        found = [d for d in near_duplicates({"train": rows(*texts)}) if d.likeness == "similar"]
    kinds = list(dict.fromkeys(map(bare, texts)))
    best = {t: max((jaccard(s, t) for s in kinds[:n]), default=0.0) for n, t in enumerate(kinds)}
    assert {bare(d.rows[1].text): d.similarity for d in found} == {t: s for t, s in best.items() if s >= similar}
    assert all(jaccard(bare(d.rows[0].text), bare(d.rows[1].text)) == d.similarity for d in found)


@given(st.lists(texts, max_size=14), st.sampled_from([0.5, 0.7, 1.0]))
def test_texts_of_different_groups_are_not_alike_and_a_group_hangs_together(texts, similar):
    with mock.patch.object(duplicates, "SIMILAR", similar):
        groups = groups_of_alike(texts)
    assert sorted(n for group in groups for n in group) == list(range(len(texts)))
    group_of = {n: at for at, group in enumerate(groups) for n in group}
    alike = {n: {m for m in group_of if jaccard(bare(texts[n]), bare(texts[m])) >= similar} for n in group_of}
    assert all(group_of[n] == group_of[m] for n in alike for m in alike[n])
    for group in groups:
        reached, new = set(), {group[0]}
        while new:
            reached |= new
            new = set.union(*(alike[n] for n in new)) - reached
        assert reached == set(group)


def test_rows_of_one_template_are_found_without_comparing_each_two_of_them():
    """Of 200,000 that would take hours."""
    compared = []

    class Grams(set):
        def __and__(self, other):
            compared.append(1)
            return set.__and__(self, other)

    same = rows(*(f"第{n}单：三星在北京发布了新手机，售价不变。" for n in range(1000)))
    own = duplicates.grams
    with (
        mock.patch.object(duplicates, "COMPARED", 50),
        mock.patch.object(duplicates, "grams", lambda *given: Grams(own(*given))),
    ):
        assert len(near_duplicates({"train": same})) == 999
        assert len(groups_of_alike([row.text for row in same])) == 1
    assert len(compared) <= 2 * 1000 * 50


def test_pairs_name_their_splits_and_n_of_a_kind_make_n_minus_one():
    splits = {"train": rows("天气好", "天气好！", "下雨了"), "dev": rows("天气好", "ＯＫ，好"), "test": rows("ok好")}
    found = near_duplicates(splits)
    assert [(d.splits, d.likeness, d.rows[0].text, d.rows[1].text) for d in found] == [
        (("train", "train"), "equal", "天气好", "天气好！"),
        (("train", "dev"), "identical", "天气好", "天气好"),
        (("dev", "test"), "equal", "ＯＫ，好", "ok好"),
    ]


def test_texts_of_punctuation_alone_are_told_apart():
    assert leaks(rows("……"), rows("！！")) == []
    assert len(leaks(rows("！！"), rows("!!"))) == 1


def test_cluener(cluener_dir):
    splits = {split: read_dataset("cluener", split, data_dir=cluener_dir) for split in ("train", "dev", "test")}
    assert len(leaks(splits["train"], splits["dev"])) == 1
    assert len(leaks(splits["train"], splits["test"])) == 3
    found = near_duplicates(splits)
    assert not [d for d in found if d.likeness == "identical"]
    across = [d for d in found if d.likeness == "equal" and d.splits[0] != d.splits[1]]
    assert sorted(d.splits for d in across) == [("dev", "test"), ("train", "dev"), *[("train", "test")] * 3]


@pytest.mark.parametrize("text", ["", "a"])
def test_short_texts(text):
    assert near_duplicates({"train": [Example("0", text or " "), Example("1", "b")]}) == []
