"""What a constraint allows are the targets of the format, filled from the text, and nothing else."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference.constraints.walks import spelled, wander
from rows import EIGHT

from qwen_ner.codec import Codec
from qwen_ner.data.datasets import read_dataset
from qwen_ner.entities import CLUENER, LabelSet, NerError
from qwen_ner.inference.constraints.automaton import Automaton, FixedText
from qwen_ner.inference.constraints.grammar import Grammar

END = 2
NASTY = [
    '他说"好"',
    "a\\b\\",
    "{}[]:,",
    "😀👨‍👩‍👧",
    "一",
    '"',
    "\\",
    "x\ufffdy",
    "é\u0301e",
    "\x00\x1f\n\t",
    "ＡＢ　１",
    "aaaa",
    "a\ud800b",
]


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return Grammar(CLUENER.names, tokenizer, (tokenizer.eos_token_id,))


@pytest.fixture(scope="module")
def end(tokenizer):
    return tokenizer.eos_token_id


def test_every_target_may_be_written(grammar, tokenizer, codec, end):
    for example in EIGHT:
        constraint = grammar.constraint(example.text, 128)
        for token in [*tokenizer(codec.encode(example))["input_ids"], end]:
            constraint.advance(token)
        assert constraint.state is None
        assert constraint.allowed() == []


def test_all_of_cluener_may_be_written(cluener_dir, codec):
    for example in read_dataset("cluener", "train", data_dir=cluener_dir)[::5]:
        automaton = Automaton(FixedText(CLUENER.names), example.text)
        state = automaton.after(automaton.beginning, codec.encode(example).encode())
        assert state is not None, example
        assert state.place.kind == "done"


@pytest.mark.parametrize("text", [*(gold.text for gold in EIGHT), *NASTY])
def test_whatever_is_written_is_whole_in_the_text_and_in_time(grammar, codec, end, text):
    for seed in range(20):
        limit = random.Random(seed).randint(2, 60)
        written = wander(grammar.constraint(text, limit), seed)
        assert written[-1] == end
        assert len(written) <= limit
        completion = spelled(grammar, written)
        decoded = codec.decode(text, completion)
        assert decoded.problems == (), completion
        assert decoded.ungrounded == ()
        again = json.dumps(json.loads(completion), ensure_ascii=False, separators=(",", ":"))
        assert completion == again


def test_the_tokens_allowed_are_those_that_each_is_asked_for(grammar):
    """`allowed` walks the vocabulary along the automaton, `allows` asks for one token: over all of it they agree."""
    for text, seed in [(EIGHT[3].text, 1), (NASTY[0], 2), (NASTY[1], 3), ("aab", 4)]:
        constraint = grammar.constraint(text, 24)
        chance = random.Random(seed)
        everything = [*grammar.vocabulary.bytes, *grammar.vocabulary.ends]
        while constraint.state is not None:
            allowed = constraint.allowed()
            assert sorted(allowed) == sorted(token for token in everything if constraint.allows(token))
            constraint.advance(chance.choice(allowed))


@given(st.text(min_size=1, max_size=12), st.integers(0, 1000))
def test_any_text_has_an_answer(grammar, text, seed):
    written = wander(grammar.constraint(text, 40), seed)
    assert Codec(CLUENER).decode(text, spelled(grammar, written)).problems == ()


def test_no_surface_comes_twice_under_a_label_and_no_way_is_a_dead_end(tokenizer, end):
    """Of "aab" all surfaces together can be written, and then the list can only be closed."""
    grammar = Grammar(["x", "y"], tokenizer, (end,))
    constraint = grammar.constraint("aab", 100)
    for token in tokenizer('{"x":["a","aa","aab","ab","b"')["input_ids"]:
        constraint.advance(token)
    assert {grammar.vocabulary.bytes[token][:1] for token in constraint.allowed()} == {b"]"}
    # "b" is written, and the text has nothing behind its only b: a second surface cannot begin with it.
    constraint = grammar.constraint("aab", 100)
    for token in tokenizer('{"x":["b","')["input_ids"]:
        constraint.advance(token)
    assert {grammar.vocabulary.bytes[token][:1] for token in constraint.allowed()} == {b"a"}
    with pytest.raises(ValueError, match="may not come here"):
        constraint.advance(tokenizer("c")["input_ids"][0])
    # Under another label it may come again.
    constraint = grammar.constraint("b", 100)
    for token in [*tokenizer('{"x":["b"],"y":["b"]}')["input_ids"], end]:
        constraint.advance(token)


def write(grammar, constraint, text):
    """Let the constraint take `text`, token by token of a spelling of it."""
    for token in grammar.vocabulary.spell(text.encode()):
        constraint.advance(token)


@pytest.mark.parametrize(
    ("text", "listed", "rest"),
    [("工行目前在工行使用，北京", "工行", "使用"), ('好，他说好"坏"', "好", '"坏'), ('"好"，"好"坏', '"好"', "坏")],
)
def test_a_surface_that_replaces_a_repetition_is_forced(grammar, text, listed, rest):
    """Also where a quote of the text, which is written \\", is no end of a surface."""
    constraint = grammar.constraint(text, 64)
    listed, rest = (json.dumps(part, ensure_ascii=False)[1:-1] for part in (listed, rest))
    write(grammar, constraint, f'{{"address":["，"],"company":["{listed}","{listed}')
    assert not constraint.allows(grammar.vocabulary.spell(b'"')[0])
    write(grammar, constraint, rest + '"]}')
    assert constraint.closed
    assert constraint.forced_surfaces == {("company", json.loads(f'"{listed}{rest}"'))}


@pytest.mark.parametrize("text", ["aab", "工行\n使用\n工行", *NASTY])
def test_an_answer_is_read_alike_in_pieces_of_any_length(text):
    """Whole, or byte by byte, what may come and where it leads is the same."""
    automaton = Automaton(FixedText(["x", "y"]), text)
    for seed in range(20):
        chance, state, written = random.Random(seed), automaton.beginning, b""
        while state is not None and state.place.kind != "done":
            following = automaton.next_bytes(state) | {chance.choice(b'"\\a]') for _ in range(seed % 5 == 0)}
            byte = bytes([chance.choice(sorted(following))])
            then, written = automaton.after(state, byte), written + byte
            cut = chance.randrange(len(written))
            part = automaton.after(automaton.beginning, written[:cut])
            assert part is not None
            assert automaton.after(part, written[cut:]) == then
            state, written = (state, written[:-1]) if then is None else (then, written)


def test_a_constraint_begins_again(grammar, end):
    """Advanced anywhere and restarted, it allows what a new one allows; what was forced is forgotten."""
    text, quote = "工行目前在工行使用", grammar.vocabulary.spell(b'"')[0]
    used = grammar.constraint(text, 24)
    write(grammar, used, '{"company":["工行","工行')
    assert not used.allows(quote)
    write(grammar, used, '使用"]}')
    used.restart()
    assert used.forced_surfaces == frozenset()
    assert wander(used, 5) == wander(grammar.constraint(text, 24), 5)


def test_chosen_surfaces_are_not_forced(grammar):
    text = "工行目前在工行使用，北京"
    quote = next(token for token, spelling in grammar.vocabulary.bytes.items() if spelling == b'"')
    meant = grammar.constraint(text, 64)
    write(grammar, meant, '{"company":["工行","工行使用"]}')
    assert meant.forced_surfaces == frozenset()
    later = grammar.constraint(text, 64)
    write(grammar, later, '{"company":["工行","工行')
    assert not later.allows(quote)
    write(grammar, later, '使用","北京"],"position":["北京"]}')
    assert later.forced_surfaces == {("company", "工行使用")}
    # What is refused for another reason is no repetition.
    other = grammar.constraint(text, 64)
    write(grammar, other, '{"company":["工')
    assert not other.allows(grammar.vocabulary.spell("京".encode())[0])
    write(grammar, other, '行"]}')
    assert other.forced_surfaces == frozenset()


@pytest.mark.parametrize("label", CLUENER.names)
def test_labels_come_in_any_order_and_each_once(label):
    automaton = Automaton(FixedText(CLUENER.names), "三星")
    state = automaton.after(automaton.beginning, b'{"game":["' + "三星".encode() + b'"]')
    assert state is not None
    assert (automaton.after(state, f',"{label}":["'.encode()) is not None) == (label != "game")


def test_an_empty_text_has_one_answer(grammar):
    assert spelled(grammar, wander(grammar.constraint("", 10), 0)) == "{}"


def test_labels_are_escaped_as_the_target_has_them(tokenizer, end):
    labels = LabelSet.of({'a"b': "", "药\\": "", "ab": "", "a": ""})
    grammar = Grammar(labels.names, tokenizer, (end,))
    codec = Codec(labels)
    for seed in range(30):
        completion = spelled(grammar, wander(grammar.constraint("药ab", 60), seed))
        assert codec.decode("药ab", completion).problems == ()


def test_what_has_no_room_is_refused(grammar):
    with pytest.raises(NerError) as caught:
        grammar.constraint("三星", 1)
    assert (caught.value.place, caught.value.value) == ("max_new_tokens", 1)


def test_a_tokenizer_without_bytes_is_refused(end):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(NerError, match="byte-level BPE") as caught:
        Grammar(["x"], words, (end,))
    assert caught.value.value == 2, "the bytes that have a token"
    assert "constrained=False" in caught.value.remedy


def test_a_grammar_of_general_use_allows_the_same(tokenizer, end):
    """llguidance, with the format written as a Lark grammar: equal sets of tokens until a label has its first surface."""
    llguidance = pytest.importorskip("llguidance")
    from llguidance.hf import from_tokenizer

    labels, text = ["address", "company"], '三星"在\\北京'
    chunks = json.dumps([json.dumps(character, ensure_ascii=False)[1:-1] for character in text], ensure_ascii=False)
    lark = f"""start: "{{" (a ("," c)? | c ("," a)?)? "}}"
a: "\\"address\\":[" list "]"
c: "\\"company\\":[" list "]"
list: "\\"" SUB "\\"" (",\\"" SUB "\\"")*
SUB: %regex {{"substring_chunks": {chunks}}} & /(?s:.+)/
"""
    other = llguidance.LLMatcher(from_tokenizer(tokenizer), llguidance.LLMatcher.grammar_from_lark(lark))
    assert not other.is_error(), other.get_error()
    grammar = Grammar(labels, tokenizer, (end,))
    constraint = grammar.constraint(text, 1000)
    compared = 0
    for token in tokenizer('{"company":["三星\\"在')["input_ids"]:
        bits = other.compute_bitmask()
        theirs = {i for i in range(len(tokenizer)) if bits[i // 8] >> (i % 8) & 1}
        allowed = set(constraint.allowed())
        first = {grammar.vocabulary.bytes[token][:1] for token in allowed}
        # Where one string alone can follow, llguidance asks for the tokenizer's own spelling of it.
        assert theirs <= allowed
        assert theirs == allowed or len(first) == 1
        compared += len(first) > 1
        constraint.advance(token)
        assert other.consume_token(token)
    assert compared > 3
