"""Laws of tags: every scheme says the same spans, each is told by its tags, and no faulty tag passes in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.data.formats.tagged.schemes import BIO2, OUTSIDE, SCHEMES, parse_tag, scheme_of, spans_of, tags_of

BY_NAME = {scheme.name: scheme for scheme in SCHEMES}


@st.composite
def sentences(draw):
    """(length, spans): entities side by side or apart."""
    spans, at = [], 0
    for gap, length, label in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from("AB")))):
        spans.append((label, at + gap, at + gap + length))
        at += gap + length
    return at + draw(st.integers(0, 2)), spans


def read(tags, scheme):
    faults = []
    spans = spans_of([parse_tag(tag) for tag in tags], scheme, lambda at, fault: faults.append((at, fault)))
    return spans, faults


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@given(sentences())
def test_what_a_scheme_writes_it_reads_without_a_fault(scheme, sentence):
    length, spans = sentence
    assert read(tags_of(length, spans, scheme), scheme) == (spans, [])


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@given(st.lists(sentences(), min_size=1, max_size=4))
def test_the_scheme_that_is_told_by_the_tags_reads_what_was_written(scheme, file):
    """It may be another one where both say the same of these tags, never one that says something else."""
    told = scheme_of(tags_of(length, spans, scheme) for length, spans in file)
    for length, spans in file:
        assert read(tags_of(length, spans, scheme), told) == (spans, [])


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ("B-A I-A O B-A", "BIO2"),
        ("I-A I-A B-A O", "IOB1"),
        ("B-A I-A O S-A", "BIOS"),
        ("B-A I-A E-A S-A", "BIOES"),
        ("B-A M-A E-A O", "BMES"),
        ("B-A I-A L-A U-A", "BILOU"),
        ("O O", "BIO2"),
        ("I-A O I-B", "IOB1"),
        ("B-A E-A O", "BIOES"),
    ],
)
def test_each_scheme_is_told_by_its_tags(tags, name):
    assert scheme_of([tags.split()]).name == name


def test_a_few_faults_do_not_make_another_scheme_of_a_file():
    sentences = ["B-A I-A E-A O"] * 5 + ["S-B O"] * 5 + ["B-A I-A O", "I-A E-A"]
    assert scheme_of(map(str.split, sentences)).name == "BIOES"


@pytest.mark.parametrize(
    ("name", "tags", "faults", "spans"),
    [
        ("BIO2", "O I-A I-A", [(1, "I-A follows O")], [("A", 1, 3)]),
        ("BIO2", "I-A", [(0, "I-A begins the sentence")], [("A", 0, 1)]),
        ("BIO2", "B-A I-B", [(1, "I-B follows B-A")], [("A", 0, 1), ("B", 1, 2)]),
        ("IOB1", "O B-A I-A", [(1, "B-A follows O")], [("A", 1, 3)]),
        ("IOB1", "I-A B-B", [(1, "B-B follows I-A")], [("A", 0, 1), ("B", 1, 2)]),
        ("BMES", "O M-A E-A", [(1, "M-A follows O")], [("A", 1, 3)]),
        ("BMES", "B-A M-A O", [(2, "O follows M-A")], [("A", 0, 2)]),
        ("BIOES", "B-A B-A E-A", [(1, "B-A follows B-A")], [("A", 0, 1), ("A", 1, 3)]),
        ("BIOES", "S-A I-A E-A", [(1, "I-A follows S-A")], [("A", 0, 1), ("A", 1, 3)]),
        ("BIOES", "O E-A", [(1, "E-A follows O")], [("A", 1, 2)]),
        ("BILOU", "U-A B-A", [(1, "B-A ends the sentence")], [("A", 0, 1), ("A", 1, 2)]),
        ("BIOS", "S-A I-A", [(1, "I-A follows S-A")], [("A", 0, 1), ("A", 1, 2)]),
    ],
)
def test_a_tag_out_of_order_is_told_and_read_as_conlleval_reads_it(name, tags, faults, spans):
    assert read(tags.split(), BY_NAME[name]) == (spans, faults)


@given(st.lists(st.sampled_from([OUTSIDE, *((p, label) for p in "BI" for label in "AB")]), max_size=8))
def test_no_tag_but_o_is_left_out_of_an_entity(tags):
    spans = spans_of(tags, BIO2, lambda *_: None)
    inside = {at for _, start, end in spans for at in range(start, end)}
    assert inside == {at for at, tag in enumerate(tags) if tag != OUTSIDE}


def test_labels_may_hold_what_parts_a_prefix_from_its_label():
    assert parse_tag("B-PER-NAM") == ("B", "PER-NAM")
    assert parse_tag("B_PER") == ("B", "PER")
    assert [parse_tag(name) for name in ("X-A", "B-", "B", "o", "")] == [None] * 5
