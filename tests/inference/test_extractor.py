import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rows import EIGHT
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache

from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, LabelSet, NerError
from qwen_ner.inference.asked import TextTooLong
from qwen_ner.inference.backends.base import Completion
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.loading import decode_ids, load_tokenizer


@pytest.fixture
def folder(tiny, tmp_path):
    """A trained folder in all but its training."""
    copy = tmp_path / "model"
    shutil.copytree(tiny, copy)
    NerConfig(CLUENER, "找出实体", 12, (2, 0)).save(copy)
    return copy


def test_offsets_hold_and_order_is_kept(folder):
    extractor = Extractor.from_pretrained(folder)
    texts = [gold.text for gold in EIGHT]
    one_by_one = [extractor.predict([text])[0] for text in texts]
    together = extractor.predict(texts, batch_tokens=200)
    for one, other in zip(together, one_by_one, strict=True):
        assert one.scored({}) == other.scored({})
        assert [e.score for e in one.entities] == pytest.approx([e.score for e in other.entities], rel=1e-3)
    assert extractor.extract([]) == []


def test_a_surface_behind_a_special_token_has_the_probability_of_its_own_tokens(folder):
    """Of the special tokens of the Qwens that DeepSeek distilled, whose names are not ASCII, as of all others."""
    extractor = Extractor.from_pretrained(folder)
    extractor.tokenizer.add_special_tokens({"additional_special_tokens": ["<｜end▁of▁sentence｜>"]})
    special = extractor.tokenizer.convert_tokens_to_ids("<｜end▁of▁sentence｜>")
    parts = ('{"company":["工', None, '行","', '工商"', "]}")
    pieces = [extractor.tokenizer(part, add_special_tokens=False)["input_ids"] if part else [special] for part in parts]
    ids = [token for piece in pieces for token in piece]
    logprobs = [-1.0 if part == '工商"' else 0.0 for part, piece in zip(parts, pieces, strict=True) for _ in piece]
    (answer,) = decode_ids(extractor.tokenizer, [ids])
    found = dict(extractor.log_probabilities(answer, Completion(ids, True, logprobs)))
    assert found == {("company", "工<｜end▁of▁sentence｜>行"): 0.0, ("company", "工商"): -float(len(pieces[3]))}


def test_any_iterable_of_texts_is_read(folder):
    extractor = Extractor.from_pretrained(folder)
    texts = [gold.text for gold in EIGHT]
    expected = extractor.extract(texts)
    assert any(expected)
    for other in ((text for text in texts), iter(texts), map(str, texts), dict.fromkeys(texts), tuple(texts)):
        assert extractor.extract(other) == expected


def test_threads_that_share_an_extractor_get_their_own_entities(folder, monkeypatch):
    """Each text shortens the prefix that is kept; slowed down there, threads that are not kept apart mix up caches."""
    texts = [gold.text for gold in EIGHT] * 2
    expected = [Extractor.from_pretrained(folder).predict([text])[0].scored({}) for text in texts]
    length = DynamicCache.get_seq_length
    monkeypatch.setattr(
        DynamicCache, "get_seq_length", lambda *args, **kwargs: time.sleep(0.001) or length(*args, **kwargs)
    )
    extractor = Extractor.from_pretrained(folder)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: extractor.predict([text])[0].scored({}), texts))
    assert found == expected


def test_a_transformers_model_is_run_by_the_torch_backend(folder):
    loaded = Extractor.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    extractor = Extractor(model, loaded.tokenizer, loaded.config)
    assert extractor.model is model
    assert not model.training
    texts = [gold.text for gold in EIGHT]
    found, expected = ([one.scored({}) for one in each.predict(texts)] for each in (extractor, loaded))
    assert found == expected


def test_thresholds_that_the_model_does_not_have_are_told_once(folder, caplog):
    extractor = Extractor.from_pretrained(folder)
    expected = extractor.extract(["三星在北京"])
    for _ in range(2):
        assert extractor.extract(["三星在北京"], thresholds="auto") == expected
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "thresholds" in record.message


def test_an_empty_text_has_no_entities_and_a_string_is_no_list(folder):
    extractor = Extractor.from_pretrained(folder)
    decoded = extractor.predict(["", "三星"])
    assert decoded[0].entities == () == decoded[0].problems
    with pytest.raises(TypeError, match=r"extract\(\[text\]\)"):
        extractor.extract("三星")


def test_a_nul_and_a_label_that_the_model_never_saw_are_read_like_any_other(folder):
    NerConfig(LabelSet.of([*CLUENER.names, "新药"]), "找出实体", 12, (2, 0)).save(folder)
    extractor = Extractor.from_pretrained(folder)
    text = "三星\x00在北京\x00"
    free, bound = (extractor.predict([text, "苹果"], constrained=constrained) for constrained in (False, True))
    assert [len(free), len(bound)] == [2, 2]
    assert all(not decoded.problems for decoded in bound)
    assert all(text[e.start : e.end] == e.text for e in bound[0].entities)


def test_running_out_of_memory_is_remembered(folder, monkeypatch, caplog):
    extractor = Extractor.from_pretrained(folder)
    texts = [gold.text for gold in EIGHT]

    def found():
        return [[(e.label, e.span) for e in entities] for entities in extractor.extract(texts)]

    plain = found()
    forward = extractor.model.forward

    def short_of_memory(*args, **inputs):
        if len(inputs["input_ids"]) > 2:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return forward(*args, **inputs)

    monkeypatch.setattr(extractor.model, "forward", short_of_memory)
    assert found() == plain
    warned = len(caplog.records)
    assert warned
    assert found() == plain
    assert len(caplog.records) == warned


def test_forced_surfaces_are_no_predictions(folder, monkeypatch):
    """A model that would write 工行 twice: the grammar forbids it, and 工行使用, which it writes instead, is not predicted."""
    extractor = Extractor.from_pretrained(folder)
    extractor.config = NerConfig(CLUENER, "找出实体", 40, (2, 0))
    text = "工行目前在工行使用"
    wanted = extractor.tokenizer('{"company":["工行","工行"]}', add_special_tokens=False)["input_ids"] + [2]
    prompt = len(prompt_ids(extractor.tokenizer, extractor.codec, [text])[0])
    forward = extractor.model.forward

    def scripted(*args, **inputs):
        out = forward(*args, **inputs)
        positions = inputs.get("position_ids")
        if positions is not None:
            for column, position in enumerate(positions[0, -out.logits.shape[1] :].tolist()):
                step = position + 1 - prompt
                if 0 <= step < len(wanted):
                    out.logits[0, column, wanted[step]] += 100
        return out

    monkeypatch.setattr(extractor.model, "forward", scripted)
    (free,) = extractor.predict([text], constrained=False)
    assert "duplicate" in {problem.kind for problem in free.problems}
    (bound,) = extractor.predict([text])
    assert bound.problems == ()
    assert [(e.label, e.text) for e in bound.entities if e.label == "company"] == [("company", "工行")] * 2
    assert ("company", "工行") in bound.surfaces
    assert not any(surface.startswith("工行") and surface != "工行" for _, surface in bound.surfaces)


def test_a_text_that_does_not_fit_is_refused_with_its_place(folder):
    extractor = Extractor.from_pretrained(folder)
    with pytest.raises(TextTooLong) as caught:
        extractor.extract(["三星", "很" * 5000, "北京", "好" * 6000])
    assert list(caught.value.faults) == [1, 3]
    assert all("4084" in fault for fault in caught.value.faults.values()), "the room that the model has"


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (lambda f: shutil.rmtree(f), "output_dir"),
        (lambda f: (f / "ner_config.json").unlink(), "not a base model"),
        (lambda f: (f / "model.safetensors").unlink(), "another checkpoint"),
        (lambda f: (f / "model.safetensors").write_bytes(b"torn"), "another checkpoint"),
        (lambda f: (f / "chat_template.jinja").unlink(), "chat_template.jinja"),
        (lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], "tokenizer files"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer files"),
    ],
    ids=["folder", "ner_config", "weights", "torn weights", "chat template", "tokenizer", "torn tokenizer"],
)
def test_an_incomplete_folder_is_refused(folder, spoil, remedy):
    spoil(folder)
    with pytest.raises(NerError) as caught:
        Extractor.from_pretrained(folder)
    assert str(caught.value.place) == str(folder)
    assert remedy in caught.value.remedy


def test_a_pad_token_is_found_that_is_not_the_end_token(folder):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["pad_token"] = "<|im_end|>"
    path.write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def header_flipped(content):
    return content[:9] + bytes([content[9] ^ 0xFF]) + content[10:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-100], "cannot be loaded"),
        (lambda content: content[:4], "cannot be loaded"),
        (lambda content: b"", "cannot be loaded"),
        (header_flipped, "cannot be loaded"),
        (lambda content: content.replace(b"layers.1.", b"layers.7.", 1), r"layers\.1\..* missing"),
    ],
    ids=["cut", "length alone", "empty", "header flipped", "a weight of another name"],
)
def test_torn_weights_are_an_error_and_never_random_ones(folder, change, said):
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(NerError, match=said) as caught:
        Extractor.from_pretrained(folder)
    assert str(caught.value.place) == str(folder)
    assert "checkpoint" in caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("max_new_tokens", 10**6, 10**6), ("end_token_ids", [2, 10**6], 10**6)],
)
def test_limits_beyond_the_model_are_refused_with_their_file(folder, key, value, said):
    path = folder / "ner_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(NerError) as caught:
        Extractor.from_pretrained(folder)
    assert (caught.value.place, caught.value.value) == (f"{path}: {key}", said)


def test_a_hub_that_cannot_be_reached_is_no_missing_tokenizer(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NerError) as caught:
        load_tokenizer("someone/model")
    assert caught.value.place == "someone/model"
    assert "HF_HUB_OFFLINE is set" in caught.value.remedy


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NerError) as caught:
        Extractor.from_pretrained(folder)
    assert caught.value.place == str(folder)
    assert "model.layers.1.mlp.up_proj.weight, 1 in all" in caught.value.what


@pytest.mark.parametrize("constrained", [True, False])
def test_a_model_that_computes_no_numbers_is_an_error_not_an_entity(folder, constrained):
    """As a training that has diverged, whose model no loading has seen."""
    extractor = Extractor.from_pretrained(folder)
    for value in (float("nan"), float("inf")):
        extractor.model.model.norm.weight.data.fill_(value)
        with pytest.raises(NerError) as caught:
            extractor.extract(["三星在北京"], constrained=constrained)
        assert "not finite" in caught.value.what
