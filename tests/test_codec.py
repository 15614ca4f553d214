import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.codec import Codec, Decoded, unique_keys
from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError
from qwen_ner.grounding import ground

CODEC = Codec(CLUENER)
TEXT = "三星和三星在北京"


def kinds(decoded):
    return [problem.kind for problem in decoded.problems]


def spans(entities):
    return [(e.label, *e.span) for e in entities]


@st.composite
def examples(draw):
    text = draw(
        st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('三星"\\{}😀'), min_size=1, max_size=30)
    )
    pairs = []
    for label in draw(st.lists(st.sampled_from(CLUENER.names), max_size=4, unique=True)):
        start = draw(st.integers(0, len(text) - 1))
        pairs.append((label, text[start : draw(st.integers(start + 1, len(text)))]))
    return Example("0", text, ground(text, pairs))


@given(examples())
def test_decode_of_encode_is_the_example(example):
    decoded = CODEC.decode(example.text, CODEC.encode(example))
    assert set(decoded.surfaces) == set(example.surfaces)
    assert decoded.entities == example.entities
    assert not decoded.problems


@given(st.text(), st.text())
def test_decode_never_raises_and_its_offsets_hold(text, completion):
    for entity in CODEC.decode(text, completion).entities:
        assert text[entity.start : entity.end] == entity.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([*CLUENER.names, "三星", "三", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CLUENER.names, "x"]), inner, max_size=3)
    ),
)


@given(json_values)
def test_decode_of_any_json_says_what_it_left_out(tree):
    decoded = CODEC.decode(TEXT, json.dumps(tree, ensure_ascii=False))
    well_formed = isinstance(tree, dict) and all(
        label in CLUENER and isinstance(values, list) and len(set(map(repr, values))) == len(values)
        and all(isinstance(v, str) and v and v in TEXT for v in values)
        for label, values in tree.items()
    )  # fmt: skip
    assert bool(decoded.problems) is not well_formed


def test_the_target_is_spelled_in_one_way():
    example = Example("0", "b和a在北京", ground("b和a在北京", [("name", "b"), ("name", "a"), ("address", "北京")]))
    assert CODEC.encode(example) == '{"name":["b","a"],"address":["北京"]}'
    assert CODEC.encode(Example("0", "无")) == "{}"


def test_a_label_outside_of_the_set_is_an_error_with_its_place():
    example = Example("0", "阿司匹林", ground("阿司匹林", [("drug", "阿司匹林")]), "train.jsonl:7")
    with pytest.raises(NerError) as caught:
        CODEC.encode(example)
    assert (caught.value.place, caught.value.value) == ("train.jsonl:7", "drug")
    assert "`labels`" in caught.value.remedy


@pytest.mark.parametrize("text", ['{"a":1,"b":2,"a":3}', '{"b":1,"a":2,"a":3}', '[{"x":{"a":1,"a":1}}]'])
def test_a_key_twice_is_refused_at_any_depth(text):
    with pytest.raises(NerError, match='"a"') as caught:
        json.loads(text, object_pairs_hook=unique_keys)
    assert caught.value.remedy == "merge the two"
    tree = {"x": [{"a": 1}, {"a": None}]}
    assert json.loads(json.dumps(tree), object_pairs_hook=unique_keys) == tree


@pytest.mark.parametrize(
    ("completion", "problems", "entities"),
    [
        ("", ["not_json"], []),
        ("三星", ["not_json"], []),
        ('{"company":["三星"]', ["not_json"], []),
        ("[" * 100_000, ["not_json"], []),
        ("9" * 5000, ["not_json"], []),
        ('["三星"]', ["wrong_type"], []),
        ("null", ["wrong_type"], []),
        ('{"company":"北京"}', ["wrong_type"], [("company", 6, 8)]),
        ('{"company":[1,null,"",["三星"]]}', ["wrong_type"] * 4, []),
        ('{"company":{"三星":[]}}', ["wrong_type"], []),
        ('{"company":{}}', ["wrong_type"], []),
        ('{"company":{"三星":[],"北京":[]}}', ["wrong_type"], []),
        ('{"maker":["北京"]}', ["unknown_label"], []),
        ('{"maker":["苹果"]}', ["unknown_label"], []),
        ('{"company":["苹果"]}', ["not_in_text"], []),
        ('{"company":["北京","北京"]}', ["duplicate"], [("company", 6, 8)]),
        ('{"company":["北京"],"company":["三星"]}', ["duplicate"], [("company", 0, 2), ("company", 3, 5), ("company", 6, 8)]),
        ('{"company":[]}', [], []),
        ("{}", [], []),
    ],
)  # fmt: skip
def test_each_fault_is_counted_and_nothing_else_is_lost(completion, problems, entities):
    decoded = CODEC.decode(TEXT, completion)
    assert kinds(decoded) == problems
    assert spans(decoded.entities) == entities


def test_an_unfinished_completion_is_truncated_and_not_also_not_json():
    assert kinds(CODEC.decode(TEXT, '{"company":["三', finished=False)) == ["truncated"]
    whole = CODEC.decode(TEXT, '{"company":["北京"]}', finished=False)
    assert kinds(whole) == ["truncated"]
    assert spans(whole.entities) == [("company", 6, 8)]
    assert kinds(CODEC.decode(TEXT, '["北京"]', finished=False)) == ["truncated", "wrong_type"]


def test_what_became_no_entity_is_still_a_prediction():
    decoded = CODEC.decode(TEXT, '{"company":["苹果","三星"],"maker":["三星"]}')
    assert decoded.ungrounded == (("company", "苹果"), ("maker", "三星"))


@pytest.mark.parametrize(
    ("text", "surfaces", "expected"),
    [
        ("北京北京", [("a", "北京")], [("a", 0, 2), ("a", 2, 4)]),
        ("北京大学在北京", [("a", "北京"), ("o", "北京大学")], [("o", 0, 4), ("a", 5, 7)]),
        ("北京大学", [("a", "北京"), ("o", "北京大学")], [("a", 0, 2), ("o", 0, 4)]),
        ("三星", [("c", "三星"), ("n", "三星")], [("c", 0, 2), ("n", 0, 2)]),
        ("aaaa", [("x", "aa")], [("x", 0, 2), ("x", 2, 4)]),
        ("xaaa", [("y", "xa"), ("x", "aa")], [("y", 0, 2), ("x", 2, 4)]),
        ("ＡA", [("x", "A")], [("x", 1, 2)]),
        ("abc", [("x", "d"), ("x", "")], []),
    ],
)
def test_grounding(text, surfaces, expected):
    assert spans(ground(text, surfaces)) == expected


def test_only_a_surface_with_several_places_of_its_own_is_ambiguous():
    found = ground("北京北京大学在三星", [("a", "北京"), ("o", "北京大学"), ("c", "三星")])
    assert {e.text: e.ambiguous for e in found} == {"北京": False, "北京大学": False, "三星": False}
    assert all(e.ambiguous for e in ground("北京和北京", [("a", "北京")]))
    assert all(e.ambiguous for e in ground("北京大学和北京大学", [("a", "北京"), ("o", "北京大学")]))


def test_what_scores_less_than_the_floor_of_its_label_goes_with_its_surface_and_what_has_no_score_stays():
    scored = [Entity("a", "三星", 0, 2, 0.5), Entity("b", "三星", 3, 5, 0.5), Entity("a", "在", 5, 6)]
    decoded = Decoded(tuple(scored), (("a", "三星"), ("b", "三星"), ("a", "在"), ("a", "苹果")))
    kept = decoded.scored_at_least({"a": 0.5, "b": 0.51}.__getitem__)
    assert kept.entities == (scored[0], scored[2])
    assert kept.surfaces == (("a", "三星"), ("a", "在"), ("a", "苹果"))


@given(examples())
def test_each_surface_of_a_target_is_located_as_it_is_written(example):
    target = CODEC.encode(example)
    found = CODEC.locate(target)
    assert [(label, surface) for label, surface, _, _ in found] == [*by_label(example.surfaces)]
    assert all(json.loads(f'"{target[start:end]}') == surface for _, surface, start, end in found)


def by_label(pairs):
    """In the order of the target: a label's surfaces together."""
    order = list(dict.fromkeys(label for label, _ in pairs))
    return sorted(pairs, key=lambda pair: order.index(pair[0]))


def test_in_a_broken_completion_nothing_is_located():
    assert CODEC.locate('{"company":["三星","北') == []


def test_what_is_nested_too_deeply_to_be_shown_is_a_problem():
    """`json.loads` goes deeper than `json.dumps`."""
    for depth in range(300, 1100, 100):
        found = Codec(LabelSet.of(["a"])).decode("x", '{"a":' * depth + "1" + "}" * depth)
        assert found.problems
