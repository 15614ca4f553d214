"""What is fuzzed, and what must hold of it: each target a strategy of inputs and a law that raises where it is broken.

A reader raises nothing but `NerError`, whose message can be printed; what it gives is true to its text and comes back
from a file.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from rows import EIGHT, ROOT

from qwen_ner.codec import Codec
from qwen_ner.contract import NER_CONFIG_NAME, NerConfig
from qwen_ner.data.convert import convert
from qwen_ner.data.datasets import read_dataset, read_texts, write_jsonl
from qwen_ner.data.formats.doccano import as_row as doccano_row
from qwen_ner.data.formats.jsonl import as_row
from qwen_ner.data.formats.jsonl import read as read_jsonl
from qwen_ner.data.formats.label_studio import as_task as label_studio_task
from qwen_ner.data.formats.predictions import read_predictions
from qwen_ner.data.formats.registry import open_source
from qwen_ner.data.formats.tagged.bio import VARIANTS, tag_lines
from qwen_ner.data.formats.tagged.schemes import SCHEMES
from qwen_ner.data.notes import SPACE
from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError
from qwen_ner.grounding import ground
from qwen_ner.inline import InlineCodec

from .mutation import mutated, mutated_text

TARGETS: dict[str, Target] = {}


@dataclass(frozen=True)
class Target:
    """Inputs and the law that holds for each. `weight` is how much slower one is than a reader's, about."""

    inputs: st.SearchStrategy[Any]
    law: Callable[[Any], None]


def target(inputs: st.SearchStrategy[Any]) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def register(law: Callable[[Any], None]) -> Callable[[Any], None]:
        TARGETS[law.__name__] = Target(inputs, law)
        return law

    return register


@cache
def _folder() -> Path:
    """Where inputs lie that are read from files: in memory where there is such a place, since each is a file anew."""
    place = tempfile.mkdtemp(prefix="qwen_ner_fuzz_", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


def _refused(error: NerError) -> None:
    """An error of ours says something, and can be printed."""
    assert str(error).encode("utf-8").strip()


def _read(read: Callable[[], Iterable[Example]]) -> list[Example]:
    """What `read` gives; nothing where it refuses. What it gives is whole, and comes back from a file."""
    try:
        examples = list(read())
    except NerError as error:
        _refused(error)
        return []
    assert examples
    assert len({example.id for example in examples}) == len(examples)
    for example in examples:
        assert example.text.strip()
        for entity in example.entities:
            assert example.text[entity.start : entity.end] == entity.text != ""
            assert isinstance(entity.label, str)
            assert entity.label
            assert entity.score is None or 0 <= entity.score <= 1
    back = read_jsonl(_file("back.jsonl", _lines(map(as_row, examples))))
    assert [(e.id, e.text, e.entities) for e in back] == [(e.id, e.text, e.entities) for e in examples]
    return examples


NUMBERED = [Example(str(at), e.text, e.entities, f"here:{at}") for at, e in enumerate(EIGHT)]


def _lines(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _label(example: Example, last: int | None) -> dict[str, Any]:
    """{label: {surface: [[start, end]]}}, ends counted as `last` says (0 exclusive, 1 inclusive), or no offsets."""
    tree: dict[str, Any] = {}
    for e in example.entities:
        if last is None:
            tree.setdefault(e.label, []).append(e.text)
        else:
            tree.setdefault(e.label, {}).setdefault(e.text, []).append([e.start, e.end - last])
    return {"text": example.text, "label": tree}


CLUENER_FILE = _lines(_label(e, 1) for e in NUMBERED)
JSONL_FILES = (
    _lines(as_row(e) for e in NUMBERED),
    _lines(_label(e, 0) for e in NUMBERED),
    _lines({"id": at, **_label(e, None)} for at, e in enumerate(NUMBERED)),
)
DOCCANO_FILES = (
    _lines(doccano_row(e) for e in NUMBERED),
    _lines(
        {"id": at, "text": e.text, "relations": [], "entities": [
            {"id": 1, "label": x.label, "start_offset": x.start, "end_offset": x.end} for x in e.entities]}
        for at, e in enumerate(NUMBERED)
    ),
)  # fmt: skip
STUDIO_FILE = json.dumps(
    [{"id": at, **label_studio_task(e)} for at, e in enumerate(NUMBERED)], ensure_ascii=False
).encode()
TAGGED_FILES = tuple("".join(tag_lines(e, scheme) for e in NUMBERED).encode() for scheme in SCHEMES)
CONLL = (
    b"-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\nGerman JJ B-NP B-MISC\ncall NN I-NP O\n. . O O\n"
)
SPACED = "# id 1\n三 B-ORG\n星 I-ORG\n  O\n在 O\r\n北 B-LOC\n京 I-LOC\n".encode()
TOKENS_FILE = _lines({"id": "a", "tokens": list("三星在"), "ner_tags": ["B-ORG", "I-ORG", "O"]} for _ in range(2))


@target(mutated(CLUENER_FILE))
def cluener(data: bytes) -> None:
    path = _file("rows.json", data)
    _read(lambda: open_source(str(path), "train").examples(CLUENER))
    _read(lambda: open_source(str(path), "test").examples(CLUENER, unlabelled=True))


@target(mutated(*JSONL_FILES))
def jsonl(data: bytes) -> None:
    _read(lambda: read_jsonl(_file("rows.jsonl", data)))


@target(mutated(*DOCCANO_FILES))
def doccano(data: bytes) -> None:
    _read(lambda: open_source(str(_file("rows.jsonl", data)), None).examples(None, note=_note))


@target(mutated(STUDIO_FILE, whole_trees=True))
def label_studio(data: bytes) -> None:
    _read(lambda: open_source(str(_file("rows.json", data)), None).examples(None, note=_note))


@target(st.tuples(mutated(*TAGGED_FILES, CONLL, SPACED), st.booleans()))
def bio(drawn: tuple[bytes, bool]) -> None:
    data, repair = drawn
    source = str(_file("rows.bio", data))
    _read(lambda: open_source(source, None).examples(None, repair=repair, note=_note))


@target(
    st.tuples(
        mutated(CLUENER_FILE, *JSONL_FILES, *DOCCANO_FILES, STUDIO_FILE, *TAGGED_FILES, CONLL, SPACED),
        st.sampled_from(["jsonl", "json", "bio", "bmes", "txt", "tsv", "conll", "data"]),
    )
)
def detection(drawn: tuple[bytes, str]) -> None:
    """Any content under any name."""
    data, ending = drawn
    path = _file(f"any.{ending}", data)
    _read(lambda: read_dataset(str(path), "train"))


def _note(what: str, where: str) -> None:
    """What a reader has no place for is said in words that can be printed."""
    (what + where).encode("utf-8")


@target(mutated(*JSONL_FILES, "三星在北京\n\n我买了手机\n".encode()))
def texts(data: bytes) -> None:
    """A row for each line that is not blank, with a text or a fault; other JSON is refused before the first."""
    for source in ("in.jsonl", "-"):
        try:
            rows = list(read_texts(iter(data.splitlines(keepends=True)), source))
        except NerError:
            assert source == "-"
            continue
        assert len(rows) <= data.count(b"\n") + data.count(b"\r") + 1
        for row in rows:
            assert (row.text is None) != (row.fault is None)
            json.dumps([row.id, row.text, row.fault], ensure_ascii=False).encode("utf-8")


PREDICTED = _lines(
    {"id": e.id, "text": e.text, "entities": as_row(e)["entities"], "gold": as_row(e)["entities"],
     "problems": [{"kind": "not_in_text", "label": "company", "value": "苹果"}], "ungrounded": [["company", "苹果"]]}
    for e in NUMBERED
)  # fmt: skip
SUBMITTED = _lines({"id": at, "label": _label(e, 1)["label"]} for at, e in enumerate(NUMBERED))


@target(mutated(PREDICTED, SUBMITTED))
def predictions(data: bytes) -> None:
    for gold in (None, NUMBERED):
        try:
            rows, decoded = read_predictions(_file("predictions.jsonl", data), gold)
        except NerError as error:
            _refused(error)
            continue
        assert len(rows) == len(decoded) > 0
        for row, found in zip(rows, decoded, strict=True):
            assert all(row.text[e.start : e.end] == e.text for e in found.entities)
            assert all(isinstance(text, str) for pair in found.surfaces for text in pair)


CODEC, INLINE = Codec(CLUENER), InlineCodec(CLUENER)
CANONICAL = [CODEC.encode(e) for e in NUMBERED]


@target(st.tuples(st.sampled_from(NUMBERED), mutated_text(*CANONICAL), st.booleans()))
def decode(drawn: tuple[Example, str, bool]) -> None:
    """Never an error: what is written is found in the text, or counted as a problem."""
    _decoded(CODEC, *drawn)


@target(st.tuples(st.sampled_from(NUMBERED), mutated_text(*map(INLINE.encode, NUMBERED)), st.booleans()))
def decode_inline(drawn: tuple[Example, str, bool]) -> None:
    """The same of copies with marks."""
    _decoded(INLINE, *drawn)


def _decoded(codec: Codec, example: Example, completion: str, finished: bool) -> None:
    found = codec.decode(example.text, completion, finished=finished)
    for e in found.entities:
        assert example.text[e.start : e.end] == e.text
        assert e.label in CLUENER
        assert (e.label, e.text) in found.surfaces
    problems = {(p.kind, p.label, p.value) for p in found.problems}
    assert any(p.kind == "truncated" for p in found.problems) == (not finished)
    for label, surface in found.ungrounded:
        unknown = ("unknown_label", label, label) in problems
        assert unknown or ("not_in_text", label, surface) in problems
    if not found.problems:
        # In order to be said again: without a problem all that was written became entities.
        again = codec.decode(example.text, codec.encode(Example("0", example.text, found.entities)))
        assert set(again.surfaces) == set(found.surfaces)
        assert not found.ungrounded
        assert {pair[:2] for pair in codec.locate(completion)} == set(found.surfaces)
    for _, _, start, end in codec.locate(completion):
        assert 0 <= start < end <= len(completion)


SHORT = st.text("ab三", max_size=8)


@target(st.tuples(SHORT, st.lists(st.tuples(st.sampled_from(["x", "y"]), st.text("ab三", max_size=3)), max_size=5)))
def grounding(drawn: tuple[str, list[tuple[str, str]]]) -> None:
    """What is in the text gets a place, what is not gets none; a surface of several places is ambiguous in each."""
    text, surfaces = drawn
    found = ground(text, surfaces)
    assert {(e.label, e.text) for e in found} == {(label, s) for label, s in surfaces if s and s in text}
    assert len({(e.label, e.span) for e in found}) == len(found)
    longest = max((len(e.text) for e in found), default=0)
    taken = bytearray(len(text))
    for e in found:
        assert text[e.start : e.end] == e.text
        assert e.ambiguous == (len({o.span for o in found if o.text == e.text}) > 1)
        if len(e.text) == longest and e.label == found[0].label:
            others = [o for o in found if len(o.text) == longest and o.label == e.label and o.text == e.text and o != e]
            assert all(o.end <= e.start or e.end <= o.start for o in others)
        taken[e.start : e.end] = b"\x01" * len(e.text)
    assert Example("0", text, found).entities == found


def _configs() -> tuple[bytes, ...]:
    plain = NerConfig(CLUENER, CODEC.system_prompt, 128, (2, 0), "e7ec4aaf315d7efd", window=50)
    calibration = {
        "scale": 1.2, "bias": -0.1, "surfaces": 167, "error_before": 0.1, "error_after": 0.02, "thresholds": {"company": 0.4},
    }  # fmt: skip
    files = []
    for config in (plain, NerConfig(LabelSet.of(["x"]), "", 1, (2,), calibration=calibration)):
        config.save(_folder())
        files.append((_folder() / NER_CONFIG_NAME).read_bytes())
    return tuple(files)


@target(mutated(*_configs(), whole_trees=True))
def ner_config(data: bytes) -> None:
    """Refused, or good for everything that it is asked for."""
    from qwen_ner.inference.calibration import Calibration

    path = _file(NER_CONFIG_NAME, data)
    try:
        config = NerConfig.load(path.parent)
    except NerError as error:
        _refused(error)
        return
    codec = config.codec()
    json.dumps([codec.messages("三星"), codec.labels.names], ensure_ascii=False).encode("utf-8")
    if config.calibration:
        assert 0 <= Calibration(**config.calibration)(-0.5) <= 1
    config.save(path.parent)
    assert NerConfig.load(path.parent) == config


RECIPES = tuple(path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.name != "sweep.yaml")
OVERRIDES = [
    "--learning_rate", "2e-5", "--lora_r", "8", "--lora_r=none", "--labels", '{"a": "b"}', "{", "[1", "--bf16", "--report_to", "wandb", "none",
    "--output_dir", "$HOME/x", "${", "--no_such", "true", "-1", "--", "", "\ud800", "nan", "--eval_strategy", "--max_steps=1e3", "--lora_target_modules",
]  # fmt: skip


@target(st.tuples(mutated(*RECIPES), st.lists(st.sampled_from(OVERRIDES), max_size=3)))
def recipe(drawn: tuple[bytes, list[str]]) -> None:
    from qwen_ner.training.recipe import load_recipe

    data, overrides = drawn
    path = _file("recipe.yaml", data)
    try:
        loaded = load_recipe(path, overrides)
    except NerError as error:
        _refused(error)
        return
    assert "hub_token" not in loaded.values
    assert loaded.training.remove_unused_columns is False


TEXTS = st.text('ab三星京"\\\n😀\x07', min_size=1, max_size=7)


@target(st.tuples(TEXTS, st.lists(st.integers(0, 7), max_size=40), mutated_text('{"x":["a"],"y":["b","三"]}', "{}")))
def grammar(drawn: tuple[str, list[int], str]) -> None:
    """It accepts what the codec would have written, and what is begun can be ended."""
    from qwen_ner.inference.constraints.automaton import Automaton, FixedText

    text, choices, other = drawn
    codec = Codec(LabelSet.of(["x", "y"]))
    automaton = Automaton(FixedText(codec.labels.names), text)
    done = automaton.after(automaton.beginning, b"{}")

    def accepted(completion: str) -> bool:
        return automaton.after(automaton.beginning, completion.encode("utf-8", "surrogatepass")) == done

    def canonical(completion: str) -> bool:
        """Whether it is what `encode` writes, for some subset of the text's substrings, in some order."""
        found = codec.decode(text, completion)
        if found.problems:
            return False
        tree: dict[str, list[str]] = {}
        for label, surface in found.surfaces:
            tree.setdefault(label, []).append(surface)
        return json.dumps(tree, ensure_ascii=False, separators=(",", ":")) == completion

    state, walked = automaton.beginning, b""
    for choice in choices:
        following = [bytes([byte]) for byte in sorted(automaton.next_bytes(state))]
        following = [byte for byte in following if automaton.after(state, byte) is not None]
        if not following:
            assert state == done
            break
        byte = following[choice % len(following)]
        state, walked = automaton.after(state, byte), walked + byte
    whole = (walked + automaton.closing(state)).decode("utf-8")
    assert accepted(whole)
    assert canonical(whole)
    # The other way round: a string near such ones is accepted exactly if it is one.
    for completion in (other, whole[: len(whole) // 2] + other, whole.replace("三", "a", 1)):
        assert accepted(completion) == canonical(completion), completion


WORDED = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<|endoftext|>", "system\n", "user", "assistant", "三", "a", " ", "\n", "<|", "|>", "😀", "{}", "\ud83d"]),
    min_size=1, max_size=8,
).map("".join)  # fmt: skip


@cache
def _tokenizer() -> Any:
    from qwen_ner.training.tiny import tiny_tokenizer

    return tiny_tokenizer()


@target(WORDED)
def prompt(text: str) -> None:
    """Whatever a text says, the special tokens of its prompt are the template's; and the prompt says the text."""
    from qwen_ner.data.tokenize import prompt_ids

    tokenizer = _tokenizer()
    added = set(tokenizer.get_added_vocab().values())
    try:
        plain, drawn = prompt_ids(tokenizer, CODEC, ["X", text])
    except NerError as error:
        _refused(error)
        assert "\ud83d" in text
        return
    assert [i for i in drawn if i in added] == [i for i in plain if i in added]
    head, _, tail = tokenizer.decode(plain).rpartition("X")
    assert tokenizer.decode(drawn) == head + text + tail


@st.composite
def _examples(draw: Any) -> list[Example]:
    rows = []
    for at in range(draw(st.integers(1, 3))):
        text = draw(st.text("ab三星京 \t\"\\\u2028\ufeff\u00a0😀\r'-O", min_size=1, max_size=9).filter(str.strip))
        spans, end = [], 0
        for _ in range(draw(st.integers(0, 3))):
            start = draw(st.integers(end, len(text)))
            end = draw(st.integers(start, len(text)))
            if end > start and text[start:end] == text[start:end].strip(SPACE):  # else it is trimmed
                spans.append(Entity(draw(st.sampled_from(["x", "y-z", "名"])), text[start:end], start, end))
        rows.append(Example(f"r{at}", text, tuple(spans), f"rows.jsonl:{at + 1}"))
    return rows


@target(st.tuples(_examples(), st.sampled_from(["jsonl", "cluener", "doccano", "label-studio", "csv", *VARIANTS])))
def round_trip(drawn: tuple[list[Example], str]) -> None:
    """Converted there and back, texts and entities are what they were; ids too, where the format has them.

    Where spans come without surfaces, it cannot be told what offsets behind 😀 count.
    """
    rows, to = drawn
    if to == "doccano":
        rows = [row for row in rows if "😀" not in row.text] or [Example("0", "三星")]
    if to == "csv":
        rows = list({row.text: row for row in rows}.values())  # of one text they may be one row, and that is told
    ending = {"cluener": "json", "csv": "csv"}.get(to, "txt")
    source, there, back = (_folder() / name for name in ("from.jsonl", f"there.{ending}", "home.jsonl"))
    write_jsonl(source, rows)
    convert(str(source), there, to=to)
    convert(str(there), back)
    came = list(read_jsonl(back))
    assert [(e.text, e.entities) for e in came] == [(e.text, e.entities) for e in rows]
    assert to in VARIANTS or [e.id for e in came] == [e.id for e in rows]
