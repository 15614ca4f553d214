"""What an inline constraint allows are the copies of the text with marks, and nothing else."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference.constraints.walks import spelled, wander
from rows import EIGHT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from qwen_ner.data.datasets import read_dataset
from qwen_ner.entities import CLUENER, LabelSet
from qwen_ner.inference.constraints.grammar import Grammar
from qwen_ner.inference.constraints.inline import InlineAutomaton, Marks
from qwen_ner.inline import InlineCodec

CODEC = InlineCodec(CLUENER)
NASTY = [
    "一",
    "[",
    "\\",
    "\\[a\\]]",
    "a  b",
    " a company b",
    "a company] b",
    "x\ufffdy",
    "e\u0301 é",
    "😀👨‍👩‍👧",
    "\x00\x1f\n\t",
    "ＡＢ　１",
]


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return Grammar(CLUENER.names, tokenizer, (tokenizer.eos_token_id,), "inline")


def test_every_target_may_be_written(grammar, tokenizer):
    for example in EIGHT:
        constraint = grammar.constraint(example.text, 1)
        for token in tokenizer(CODEC.encode(example))["input_ids"]:
            assert not constraint.closed
            constraint.advance(token)
        assert constraint.closed
        assert constraint.allowed() == [tokenizer.eos_token_id]
        constraint.advance(tokenizer.eos_token_id)
        assert constraint.allowed() == []


def test_all_of_cluener_may_be_written(cluener_dir):
    marks = Marks(CLUENER.names)
    for example in read_dataset("cluener", "train", data_dir=cluener_dir)[::5]:
        automaton = InlineAutomaton(marks, example.text)
        state = automaton.after(automaton.beginning, CODEC.encode(example).encode())
        assert state is not None, example
        assert automaton.is_done(state)


@pytest.mark.parametrize("text", [*(gold.text for gold in EIGHT), *NASTY])
def test_whatever_is_written_copies_the_text(grammar, text):
    for seed in range(20):
        completion = spelled(grammar, wander(grammar.constraint(text, 1), seed))
        decoded = CODEC.decode(text, completion)
        assert (decoded.problems, decoded.ungrounded) == ((), ()), completion
        assert all(text[e.start : e.end] == e.text for e in decoded.entities)
        assert len(CODEC.locate(completion)) == len(decoded.entities)


@pytest.mark.parametrize("text", [*(gold.text for gold in EIGHT), *NASTY])
def test_an_answer_ends_in_time_if_the_text_itself_does(grammar, tokenizer, text):
    """Marks are refused where the rest of the text would no longer fit."""
    alone = grammar.constraint(text, 1).fewest[0]
    marked = 0
    for seed in range(20):
        limit = alone + 1 + seed
        written = wander(grammar.constraint(text, limit), seed)
        assert len(written) <= limit
        assert written[-1] == tokenizer.eos_token_id
        marked += b"[" in [grammar.vocabulary.bytes.get(token) for token in written]
    assert marked
    cut_off = grammar.constraint(text, alone)
    assert any(grammar.vocabulary.bytes[token].startswith(b"[") for token in cut_off.allowed()), "it is cut off anyway"


def test_a_mark_is_refused_only_where_the_tokens_of_the_rest_would_not_fit():
    """Not where its characters would be too many for a token each: Qwen's tokens have several."""
    text = "昨天张伟在北京大学附属医院看病，医生说没有大问题，让他回家休息。"
    answer = text.replace("张伟", "[张伟 name]")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["</s>"]
    )
    bpe.train_from_iterator([text, *re.findall("..", text)] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")
    ids = tokenizer(answer)["input_ids"]
    marking = Grammar(["name"], tokenizer, (tokenizer.eos_token_id,), "inline")
    limit = len(ids) + len(" name]") + 1
    assert limit < len(text)
    constraint = marking.constraint(text, limit)
    for token in ids:
        constraint.advance(token)
    assert constraint.closed
    for seed in range(20):
        assert len(wander(marking.constraint(text, limit), seed)) <= limit


def test_the_tokens_allowed_are_those_that_each_is_asked_for(grammar):
    for text, seed in [(EIGHT[3].text, 1), (NASTY[3], 2), (NASTY[5], 3), (NASTY[6], 4), ("a  b", 5)]:
        constraint, chance = grammar.constraint(text, 1), random.Random(seed)
        everything = [*grammar.vocabulary.bytes, *grammar.vocabulary.ends]
        while constraint.state is not None:
            allowed = constraint.allowed()
            assert sorted(allowed) == sorted(token for token in everything if constraint.allows(token))
            constraint.advance(chance.choice(allowed))


@given(st.text("[]\\ abc北\u0301", min_size=1, max_size=8), st.integers(0, 1000))
def test_an_answer_is_read_alike_in_pieces_of_any_length(text, seed):
    """Whole, or byte by byte, what may come and where it leads is the same; and no way is a dead end."""
    automaton = InlineAutomaton(Marks(["a", "ab", "b"]), text)
    chance, state, written = random.Random(seed), automaton.beginning, b""
    while not automaton.is_done(state):
        following = {byte: automaton.after(state, bytes([byte])) for byte in range(256)}
        allowed = {byte for byte, then in following.items() if then is not None}
        assert allowed <= automaton.next_bytes(state), "none is forgotten"
        assert allowed
        byte = chance.choice(sorted(allowed))
        state, written = following[byte], written + bytes([byte])
        cut = chance.randrange(len(written))
        part = automaton.after(automaton.beginning, written[:cut])
        assert automaton.after(part, written[cut:]) == state
    codec = InlineCodec(LabelSet.of(["a", "ab", "b"]))
    assert codec.decode(automaton.source, written.decode()).problems == ()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("x ab c", "[x ab c b]"),  # the text goes on as a label begins
        ("x ab c", "[x ab] ab c"),
        ("x ab c", "[x ab ab] c"),
        ("x  c", "[x  a] c"),
        ("x ", "[x  a]"),
        ("x a] c", "[x a\\] b] c"),
    ],
)
def test_a_space_in_a_mark_is_of_the_text_or_before_the_label(text, answer):
    automaton = InlineAutomaton(Marks(["a", "ab", "b"]), text)
    state = automaton.after(automaton.beginning, answer.encode())
    assert state is not None
    assert automaton.is_done(state)
    assert InlineCodec(LabelSet.of(["a", "ab", "b"])).decode(text, answer).problems == ()


@pytest.mark.parametrize("answer", ["[", "[x", "x[", "[x y]", "[[x", "[x a] [", "[x a]]", "y", "[ a]", "[x a] cc"])
def test_what_is_no_copy_may_not_come(answer):
    automaton = InlineAutomaton(Marks(["a"]), "x c")
    state = automaton.after(automaton.beginning, answer.encode())
    assert state is None or not automaton.is_done(state)


def test_a_forecast_goes_on_with_the_label_and_the_text(grammar):
    constraint = grammar.constraint("三星在北京设厂", 1)
    for piece, ahead in [("[三星", "在北京设厂"), (" comp", "any]在北京设厂"), ("any]在", "北京设厂")]:
        for token in grammar.vocabulary.spell(piece.encode()):
            constraint.advance(token)
        assert spelled(grammar, constraint.forecast(99)) == ahead
