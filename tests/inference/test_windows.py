import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.entities import Entity
from qwen_ner.inference.windows import windows

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
    assert [(w.start, w.end) for w in windows("", 6)] == [(0, 0)]


def test_entities_of_another_window_are_left_to_it():
    first, second = windows("三星在北京苹果在上海", 8)
    shared = Entity("company", "苹果", 5, 7)
    assert [e.span for e in first.entities((shared,))] == [(5, 7)]
    assert second.entities((Entity("x", "果", 0, 1),)) == ()


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
