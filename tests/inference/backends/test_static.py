"""The way of a GPU on a CPU, where only the graph is missing: it writes what the batch by batch way writes."""

from itertools import chain, pairwise

import pytest
import torch
from gpu_kernels import Launches, record_on_a_cpu
from rows import EIGHT
from static_models import make_model, static_backend
from torch.utils._python_dispatch import _disable_current_modes
from transformers import AutoModelForCausalLM, DynamicCache

from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.backends import continuous, static
from qwen_ner.inference.backends.base import Draw
from qwen_ner.inference.backends.packed_linear import pack
from qwen_ner.inference.backends.static import StaticDecoder, unfit
from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.inference.constraints.grammar import Grammar
from qwen_ner.training.model import load_model

TEXTS = [gold.text[: len(gold.text) - cut] for cut in range(5) for gold in EIGHT]


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}


MODELS = {"qwen2": ("qwen2", {}), "qwen3": ("qwen3", {}), "yarn": ("qwen3", {"rope_parameters": YARN})}


@pytest.fixture
def model():
    return make_model("qwen2")


@pytest.fixture(scope="module")
def prompts(tokenizer, codec):
    return prompt_ids(tokenizer, codec, TEXTS)


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return Grammar(CLUENER.names, tokenizer, (2, 0))


def spreading_end(model, prompts):
    """A token that ends answers of 24 tokens early, late and never."""
    free = [one.ids for one in TorchBackend(model, (-1,), 0).complete(prompts, 24)]
    return max(sorted({*chain(*free)}), key=lambda token: len({(*ids, token).index(token) for ids in free}))


def assert_same(found, wanted):
    assert [(one.ids, one.finished) for one in found] == [(one.ids, one.finished) for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "way"), [*((name, "free") for name in MODELS), ("qwen2", "bound"), ("qwen2", "hints")]
)
def test_it_writes_what_batches_write(prompts, grammar, name, way):
    """Alone, in few places that many prompts take in turn, and all at once; ends that come early, late and never."""
    family, options_of_model = MODELS[name]
    plain, joined = (make_model(family, **options_of_model) for _ in range(2))
    ends = (2, 0) if way == "bound" else (spreading_end(plain, prompts),)

    def options():
        guides = [grammar.constraint(text, 24) for text in TEXTS]
        return {"free": {}, "bound": {"constraints": guides}, "hints": {"hints": guides}}[way]

    wanted = TorchBackend(plain, ends, 0).complete(prompts, 24, **options())
    assert len({len(one.ids) for one in wanted}) > 2
    for budget in (1, 1000, 100_000):
        seen = []
        backend = static_backend(joined, ends)
        assert_same(backend.complete(prompts, 24, batch_tokens=budget, on_rows=seen.append, **options()), wanted)
        assert sum(seen) == len(prompts)
    for some in (slice(3, 4), slice(0, 9)):
        chosen = {name: guides[some] for name, guides in options().items()}
        assert_same(backend.complete(prompts[some], 24, **chosen), wanted[some])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_in_half_precision_it_is_as_exact_as_batches(prompts, family, dtype):
    """The log-probabilities of what either way wrote, against those of float32."""

    def off(backend):
        errors = []
        for prompt, one in zip(prompts, backend.complete(prompts, 12), strict=True):
            logits = whole(torch.tensor([[*prompt, *one.ids]])).logits[0, len(prompt) - 1 : -1]
            wanted = logits.log_softmax(-1).gather(1, torch.tensor(one.ids)[:, None])[:, 0]
            errors += (torch.tensor(one.logprobs[: len(one.ids)]) - wanted).abs().tolist()
        return sum(errors) / len(errors)

    whole, model = make_model(family), make_model(family).to(dtype)
    usual = off(TorchBackend(model, (-1,), 0))
    assert off(static_backend(model, (-1,))) <= 1.2 * usual < 0.1


def test_each_limit_gives_a_part_of_the_answer(model, prompts):
    backend = static_backend(model)
    longest = backend.complete(prompts[:3], 30)
    for limit in (1, 2, 17):
        for one, other in zip(backend.complete(prompts[:3], limit), longest, strict=True):
            assert one.ids == other.ids[:limit]
            assert len(one.logprobs) <= limit


def test_prompts_take_the_places_of_ended_answers_and_the_last_ones_move_together(model, prompts, grammar, monkeypatch):
    ends = (spreading_end(model, prompts),)
    wanted = TorchBackend(model, ends, 0).complete(prompts, 24)
    backend, read, steps = static_backend(model, ends), [], []
    repeat, step = continuous.repeat_cache, backend.decoder.step
    monkeypatch.setattr(continuous, "repeat_cache", lambda *args: read.append(args[1]) or repeat(*args))
    monkeypatch.setattr(backend.decoder, "step", lambda ids, places: steps.append(len(ids)) or step(ids, places))
    length = max(len(prompt) for prompt in prompts) + 24
    assert length <= 96
    assert_same(backend.complete(prompts, 24, batch_tokens=8 * 96), wanted)
    assert sum(read) == len(prompts)
    assert read[0] == 8
    assert len(read) > 2
    assert min(read[:-1]) >= 2, "a place in four"
    assert set(steps) <= {8, 1}
    steps.clear()

    def bound():
        return [grammar.constraint(text, 24) for text in TEXTS]

    assert_same(backend.complete(prompts, 24, bound()), TorchBackend(model, ends, 0).complete(prompts, 24, bound()))
    assert steps == sorted(steps, reverse=True)
    assert {64, 8} <= set(steps)


def test_a_prefix_that_later_prompts_shorten_and_lengths_far_apart(model, prompts):
    backend = static_backend(model)
    long = [[*prompts[0][:9], *range(3, 3 + length)] for length in (700, 30, 1, 300, 90, 290)]
    for some in (prompts[:3], long, prompts[5:6], [[9, 8, 7, 6]], prompts, [[9, 8, 7, 5], [9]]):
        assert_same(backend.complete(some, 12), TorchBackend(model, (2, 0), 0).complete(some, 12))


def test_prompts_are_read_in_batches_too(model, prompts, monkeypatch):
    monkeypatch.setattr(continuous, "BATCH_TOKENS", 50)
    assert_same(static_backend(model).complete(prompts, 12), TorchBackend(model, (2, 0), 0).complete(prompts, 12))


@pytest.mark.parametrize("bound", [False, True])
def test_what_it_draws_is_what_batches_draw(model, prompts, grammar, bound):
    def write(backend, seed, **options):
        guides = [grammar.constraint(text, 24) for text in TEXTS] if bound else None
        draws = [Draw(1.5, 0.9, seed + n) for n in range(len(TEXTS))]
        return backend.complete(prompts, 24, guides, draws=draws, **options)

    found = write(static_backend(model), 0, batch_tokens=1000)
    assert_same(found, write(TorchBackend(model, (2, 0), 0), 0))
    assert [one.ids for one in found] != [one.ids for one in write(static_backend(model), 100)]


@pytest.mark.parametrize("steps_before", [0, 5])
@pytest.mark.parametrize("way", ["constraints", "hints"])
def test_what_runs_out_of_memory_is_halved_and_only_unfinished_rows_begin_again(
    model, prompts, grammar, monkeypatch, caplog, steps_before, way
):
    wanted = TorchBackend(model, (2, 0), 0).complete(
        prompts, 24, **{way: [grammar.constraint(text, 24) for text in TEXTS]}
    )
    backend = static_backend(model)
    step, steps, rows = backend.decoder.step, [], []

    def short_of_memory(ids, positions):
        steps.append(len(ids))
        if len(steps) > steps_before and len(ids) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(ids, positions)

    monkeypatch.setattr(backend.decoder, "step", short_of_memory)
    guides = [grammar.constraint(text, 24) for text in TEXTS]
    assert_same(backend.complete(prompts, 24, on_rows=rows.append, **{way: guides}), wanted)
    assert sum(rows) == len(prompts)
    assert backend.batch_tokens < 16_384
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    steps.clear()
    backend.complete(prompts, 24)
    assert max(steps) == 8


def test_a_prompt_that_does_not_fit_by_itself_is_an_error(model, prompts, monkeypatch):
    backend = static_backend(model)
    backend.complete(prompts[:1], 12)

    def out_of_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(backend.decoder, "reserve", out_of_memory)
    with pytest.raises(NerError) as caught:
        backend.complete(prompts[:1], 12)
    assert caught.value.value == len(prompts[0]) + 12
    monkeypatch.undo()
    assert len(backend.complete(prompts[:1], 12)) == 1, "what was there had been freed, and is made again"


def test_rows_are_as_many_as_the_free_memory_holds(model, monkeypatch):
    decoder = StaticDecoder(model)
    config = model.config
    assert decoder.token_bytes == 2 * 2 * config.num_key_value_heads * decoder.size * 4
    decoder.device = torch.device("cuda")
    row = 128 * decoder.token_bytes + 16 * config.vocab_size
    for name, value in (("memory_reserved", 5 * row), ("memory_allocated", 3 * row), ("mem_get_info", (8.01 * row, 0))):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert decoder.fitting_rows(128) == 7  # 0.7 of 8 + 5 - 3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000 * row, 0))
    assert decoder.fitting_rows(128) == 512


def test_joined_weights_are_held_once_and_remain_those_of_the_model(model, prompts):
    before = model(torch.tensor(prompts[:1])).logits
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    decoder = StaticDecoder(model)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    assert torch.equal(model(torch.tensor(prompts[:1])).logits, before)
    attention = model.model.layers[1].self_attn
    joined = decoder.layers[1].qkv.untyped_storage().data_ptr()
    assert all(getattr(attention, f"{name}_proj").weight.untyped_storage().data_ptr() == joined for name in "qkv")


def test_what_it_cannot_run_is_told(tiny, model):
    assert "trained" in unfit(AutoModelForCausalLM.from_pretrained(tiny))
    adapted = load_model(str(tiny), lora={"r": 4, "target_modules": "all-linear"})
    assert "LoraModel" in unfit(adapted)
    assert unfit(adapted.merge_and_unload().requires_grad_(False)) == ""
    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    assert "slides" in unfit(make_model("qwen2", **window))
    assert "bias" in unfit(make_model("qwen3", attention_bias=True))
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert "dynamic" in unfit(make_model("qwen3", rope_parameters=dynamic))
    mixed = make_model("qwen3")
    mixed.model.norm.double()
    assert "dtypes" in unfit(mixed)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in unfit(model)
    assert "PackedLinear" in unfit(pack(model))


def test_where_no_graph_can_be_recorded_decoding_goes_on(model, prompts, monkeypatch, caplog):
    def fail(device):
        raise RuntimeError("operation not permitted when stream is capturing")

    wanted = TorchBackend(model, (2, 0), 0).complete(prompts, 12)
    backend = static_backend(model)
    backend.decoder.graphing = True
    monkeypatch.setattr(torch.cuda, "device", fail)
    assert_same(backend.complete(prompts, 12), wanted)
    assert len([record for record in caplog.records if "not permitted" in record.message]) == 1


def test_a_replayed_step_writes_the_same(model, prompts, grammar, monkeypatch):
    """Nothing that changes from step to step is kept by a graph, in any number of rows and at any length."""
    replays = record_on_a_cpu(monkeypatch)
    backend = static_backend(model)
    backend.decoder.graphing = True
    plain = TorchBackend(model, (2, 0), 0)
    for some, limit, budget in ((40, 24, 8 * 96), (40, 24, 16_384), (1, 24, None), (9, 200, None), (40, 24, 8 * 96)):
        found, wanted = (
            one.complete(
                prompts[:some], limit, [grammar.constraint(text, limit) for text in TEXTS[:some]], batch_tokens=budget
            )
            for one in (backend, plain)
        )
        assert_same(found, wanted)
        assert replays, "the graph was used"
        replays.clear()
    assert {rows for rows, _ in backend.decoder.graphs} == {8, 1}


@pytest.mark.parametrize(("family", "layers"), [("qwen2", 24), ("qwen3", 28)])
def test_a_step_launches_700_kernels_at_most(prompts, grammar, family, layers, monkeypatch):
    """As many layers as Qwen2.5-0.5B and Qwen3-0.6B have, a step as `predict` does it; it was 1,066 on an H100."""
    model = make_model(family, num_hidden_layers=layers)
    backend = static_backend(model)
    launches, counts, step = Launches(), [], backend.decoder.step

    def one_kernel(*args):
        launches.of["rms_norm"] += 1  # on a GPU; on a CPU it is composed
        with _disable_current_modes():
            return torch.nn.functional.rms_norm(*args)

    def counted(*args):
        counts.append(launches.of.total())
        return step(*args)

    monkeypatch.setattr(static, "rms_norm", one_kernel)
    monkeypatch.setattr(backend.decoder, "step", counted)
    with launches:
        backend.complete(prompts[:8], 24, [grammar.constraint(text, 24) for text in TEXTS[:8]])
    steps = [after - before for before, after in pairwise(counts)]
    assert len(steps) > 10
    assert max(steps) <= 700, (steps, launches.of.most_common())


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_all_that_it_computes_with_is_where_the_model_is(family):
    """On the meta device, which most operations refuse to mix with the CPU, as a GPU does; nothing is computed there."""
    decoder = StaticDecoder(make_model(family).to("meta"))
    # A GPU cannot pick from the CPU's tensors, even where these are empty.
    assert {one.device.type for one in vars(decoder).values() if isinstance(one, torch.Tensor)} == {"meta"}
    decoder.move([], 4, 64)
    cache = DynamicCache(config=decoder.model.config)
    decoder.model(input_ids=torch.zeros(2, 7, dtype=torch.long, device="meta"), past_key_values=cache, use_cache=True)
    decoder.fill([0, 2], cache)
    decoder._compute(4, 64)
    decoder.move([0, 2], 2, 96)
    logits, best, _ = decoder._compute(2, 96)
    assert logits.device.type == best.device.type == "meta"
    assert logits.shape == (2, 1, 1508)
