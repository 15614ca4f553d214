import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.codec import Decoded, Problem
from qwen_ner.entities import Entity
from qwen_ner.inference.windows import join_windows, windows, windows_to_read

TEXT = st.text(alphabet="ab三星。！\n \r…😀\u0301Ａ", max_size=80)


@given(TEXT, st.integers(4, 30))
def test_windows_cover_the_text_and_every_character_has_one_that_answers_for_it(text, length):
    made = list(windows(text, length))
    assert all(0 < window.end - window.start <= length for window in made) or not text
    answered = [place for window in made for place in range(window.first, window.last)]
    assert answered == list(range(len(text)))
    assert all(window.start <= window.first <= window.last <= window.end for window in made)


@given(TEXT, st.integers(8, 30), st.data())
def test_a_mention_that_crosses_no_sentence_end_is_whole_in_the_window_that_answers_for_it(text, length, data):
    """Of up to an eighth of a window: the half of what two windows share."""
    size = length // 8
    for start in range(len(text) - size + 1):
        surface = text[start : start + size]
        if any(mark in surface for mark in "。！\n…"):
            continue
        owner = next(window for window in windows(text, length) if window.first <= start < window.last)
        assert start + size <= owner.end
        entity = Entity("x", surface, start - owner.start, start - owner.start + size)
        (moved,) = owner.entities((entity,))
        assert text[moved.start : moved.end] == moved.text
        assert moved.start == start


def test_a_text_that_fits_is_one_window():
    assert [(w.start, w.end) for w in windows("三星。北京。", 6)] == [(0, 6)]
    assert [(w.start, w.end) for w in windows("三星。北京市", 6)] == [(0, 6)]
    assert [(w.start, w.end) for w in windows("", 6)] == [(0, 0)]


def test_entities_of_another_window_are_left_to_it():
    first, second = windows("三星在北京苹果在上海", 8)
    shared = Entity("company", "苹果", 5, 7)
    assert [e.span for e in first.entities((shared,))] == [(5, 7)]
    assert second.entities((Entity("x", "果", 0, 1),)) == ()
    assert first.entities((Entity("x", "在", 7, 8),)) == ()
    assert [e.span for e in second.entities((Entity("x", "在", 1, 2),))] == [(7, 8)]


def test_a_window_ends_behind_no_abbreviation_and_inside_no_punctuation():
    for text, cut in [
        ("He went to St. Louis with J. K. Rowling. Then home.", 14),
        ("他读完了《去哪儿？》，觉得很好看", 9),
        ("他等了很久……终于来了", 6),
    ]:
        first = next(windows(text, cut))
        assert (first.end, first.last < cut) == (cut, True), "cut inside a sentence, so the next one overlaps"
    assert next(windows("He went home. Then he slept.", 20)).end == len("He went home.")


def test_windows_are_halved_until_each_fits():
    text = "三星在北京。苹果在上海。谷歌在首尔。"
    assert len(windows_to_read(text, 99)) == 1
    read = windows_to_read(text, 99, lambda part: len(part) <= 6)
    assert [text[window.start : window.end] for window in read] == ["三星在北京。", "苹果在上海。", "谷歌在首尔。"]
    assert {w.end - w.start for w in windows_to_read("三" * 64, 64, lambda part: False)} == {4}, "the least length"


def test_white_space_alone_is_not_read():
    text = "三星在北京。" + "\n" * 20 + "苹果。"
    read = windows_to_read(text, 8)
    assert [text[window.start : window.end].strip() for window in read] == ["三星在北京。", "苹果。"]
    assert windows_to_read(" \n", 8) == []


def joined(first, second, floor=0.0):
    """What was decoded in the two windows of 三星在北京苹果在上海, which share 在 and 果."""
    return join_windows(zip(windows("三星在北京苹果在上海", 8), (first, second), strict=True), lambda label: floor)


def test_what_two_windows_say_is_one_result_in_which_each_says_what_it_answers_for():
    samsung, apple, nothing = (
        Entity("company", "三星", 0, 2),
        Entity("company", "苹果", 5, 7),
        Problem("duplicate", "x"),
    )
    part, shanghai = Entity("company", "果", 0, 1), Entity("address", "上海", 2, 4)
    first = Decoded((samsung, apple), (("company", "三星"), ("company", "谷歌"), ("company", "苹果")), (nothing,), -1.0)
    second = Decoded((part, shanghai), (("company", "果"), ("address", "上海")), (nothing,), -2.0)
    found = joined(first, second)
    assert [(e.text, e.span) for e in found.entities] == [("三星", (0, 2)), ("苹果", (5, 7)), ("上海", (8, 10))]
    assert [surface for _, surface in found.surfaces] == ["三星", "谷歌", "苹果", "上海"], "not 果, which the first has"
    assert found.problems == (nothing, nothing)
    assert found.logprob == -2.0
    assert joined(first, Decoded()).logprob is None, "one of them has none"


def test_what_scores_too_low_is_left_out_of_every_window():
    low, high = Entity("company", "三星", 0, 2, 0.4), Entity("address", "上海", 2, 4, 0.6)
    found = joined(Decoded((low,), (("company", "三星"),)), Decoded((high,), (("address", "上海"),)), floor=0.5)
    assert [(e.text, e.span, e.score) for e in found.entities] == [("上海", (8, 10), 0.6)]
    assert found.surfaces == (("address", "上海"),)


def test_a_window_needs_some_length():
    with pytest.raises(ValueError, match="at least 4"):
        list(windows("三星", 3))


@given(TEXT, st.integers(4, 30), st.data())
def test_where_entities_are_known_windows_share_nothing_and_cut_none_that_fits(text, length, data):
    spans, at = [], 0
    while at < len(text):
        size = data.draw(st.integers(1, 40))
        if data.draw(st.booleans()):
            spans.append((at, min(at + size, len(text))))
        at += size
    known = [Entity("x", text[start:end], start, end) for start, end in spans]
    made = list(windows(text, length, known))
    assert "".join(text[window.start : window.end] for window in made) == text
    assert all(window.end - window.start <= length for window in made)
    assert all((window.first, window.last) == (window.start, window.end) for window in made)
    cuts = {window.end for window in made[:-1]}
    for start, end in spans:
        assert end - start > length or cuts.isdisjoint(range(start + 1, end))


def test_a_sentence_end_inside_of_an_entity_ends_no_window():
    text = "看了《怒火！重案》。好看极了"
    (movie,) = [Entity("movie", "《怒火！重案》", 2, 9)]
    assert [text[w.start : w.end] for w in windows(text, 10)] == ["看了《怒火！重案》。", "好看极了"]
    assert [text[w.start : w.end] for w in windows(text, 9)] == ["看了《怒火！", "重案》。好看极了"]
    assert [text[w.start : w.end] for w in windows(text, 9, [movie])] == ["看了《怒火！重案》", "。好看极了"]


def test_overlapping_entities_are_kept_whole_together_unless_they_are_a_chain_over_the_length():
    text = "一二三四五六七八九十"
    pair = [Entity("x", text[3:6], 3, 6), Entity("y", text[5:8], 5, 8)]
    assert [(w.start, w.end) for w in windows(text, 7, pair)] == [(0, 3), (3, 10)]
    chain = [Entity("x", text[n : n + 3], n, n + 3) for n in range(0, 8, 2)]
    assert [w.end for w in windows(text, 4, chain)][-1] == 10


def test_an_entity_inside_of_another_does_not_shorten_it():
    text = "一二三四五六七八九十"
    nested = [Entity("x", text[3:8], 3, 8), Entity("y", text[4:6], 4, 6)]
    assert [(w.start, w.end) for w in windows(text, 7, nested)] == [(0, 3), (3, 10)]


def test_an_entity_that_has_to_be_cut_keeps_no_sentence_from_ending_a_window():
    text = "三星。" * 4
    assert [w.end for w in windows(text, 7, [Entity("x", text, 0, 12)])] == [6, 12]
