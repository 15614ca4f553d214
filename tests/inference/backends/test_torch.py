import math
from collections import Counter

import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.backends.base import Draw
from qwen_ner.inference.backends.batch_cache import pad_left, read_packed, read_prompts
from qwen_ner.inference.backends.prefix_cache import PrefixCache, shared_prefix
from qwen_ner.inference.backends.torch import TorchBackend, default_dtype, neutral_generation_config
from qwen_ner.inference.constraints.grammar import Grammar
from qwen_ner.training.model import load_model


@pytest.fixture(scope="module")
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer, codec):
    return prompt_ids(tokenizer, codec, [gold.text for gold in EIGHT])


def run(model, prompts, limit=12, ends=(2, 0), backend=None, **options):
    return (backend or TorchBackend(model, ends, pad_token_id=0)).complete(prompts, limit, **options)


def ids_of(completions):
    return [one.ids for one in completions]


def until_end(ids, ends):
    """The ids before the first end token, and whether there is one."""
    at = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return ids[:at], at < len(ids)


def one_by_one(model, prompt, steps):
    """Greedy decoding from its definition: the whole text through the model for every token."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_it_is_greedy_decoding_in_the_order_of_the_prompts(model, prompts, batch_tokens):
    for prompt, found in zip(prompts, run(model, prompts, batch_tokens=batch_tokens), strict=True):
        assert found.ids == until_end(one_by_one(model, prompt, 12), {2, 0})[0]


def test_rows_that_finish_at_different_steps_leave_the_others_as_they_were(model, prompts):
    """End tokens chosen so that rows end early, late and never."""
    free = run(model, prompts, 20)
    ends = (free[0].ids[1], free[3].ids[6])
    ended = run(model, prompts, 20, ends)
    assert [(one.ids, one.finished) for one in ended] == [until_end(one.ids, set(ends)) for one in free]
    assert len({len(one.ids) for one in ended}) > 2
    for one, other in zip(ended, free, strict=True):
        assert len(one.logprobs) == len(one.ids) + one.finished
        assert one.logprobs == pytest.approx(other.logprobs[: len(one.logprobs)], abs=1e-5)


def test_log_probabilities_are_those_of_one_pass_over_the_whole(model, prompts):
    for prompt, one in zip(prompts, run(model, prompts), strict=True):
        whole = torch.tensor([[*prompt, *one.ids]])
        with torch.no_grad():
            expected = model(input_ids=whole).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found = torch.tensor(one.logprobs[: len(one.ids)])
        assert torch.allclose(found, expected.gather(1, torch.tensor(one.ids)[:, None])[:, 0], atol=1e-5)


def test_it_gives_the_ids_of_transformers_generate(model, prompts):
    config = neutral_generation_config((2, 0), 0, 12)
    batch = pad_left(prompts, 0)
    out = model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :]
    assert ids_of(run(model, prompts)) == [until_end(ids, {2, 0})[0] for ids in out.tolist()]


def test_a_kept_prefix_changes_nothing_and_is_computed_once(model, prompts):
    backend = TorchBackend(model, (2, 0), 0)
    apart = [ids_of(run(model, [prompt])) for prompt in prompts]
    assert [ids_of(run(model, [prompt], backend=backend)) for prompt in prompts] == apart
    assert backend.prefix.ids == shared_prefix(prompts)
    cache = backend.prefix.cache
    assert ids_of(run(model, prompts, backend=backend)) == [ids for (ids,) in apart]
    assert backend.prefix.cache is cache
    other = [[9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 3]]
    assert ids_of(run(model, other, backend=backend)) == ids_of(run(model, other))
    assert backend.prefix.ids == [9, 8, 7, 6, 5]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("shared", [0, 5])
def test_prompts_that_are_read_in_one_row_have_the_keys_and_values_of_a_padded_batch(tiny, shared, implementation):
    model = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation=implementation).eval()
    first = list(range(20, 20 + shared))
    prompts = [[*first, *range(start, start + length)] for start, length in ((40, 3), (50, 9), (60, 1), (70, 6))]
    with torch.no_grad():
        prefix = PrefixCache().common(model, [first, first, [*first, 1]] if shared else prompts)
        packed, logits = read_packed(model, prompts, prefix)
        padded, expected = read_prompts(model, prompts, prefix, 0)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.equal(packed.mask, padded.mask)
    assert packed.first == padded.first
    assert torch.equal(packed.positions[packed.mask.bool()], padded.positions[padded.mask.bool()])
    seen = packed.mask.bool()[:, None, :, None]
    for one, other in zip(packed.cache.layers, padded.cache.layers, strict=True):
        for name in ("keys", "values"):
            assert torch.allclose(getattr(one, name) * seen, getattr(other, name) * seen, atol=1e-5)


def test_prompts_of_any_length_are_read_without_padding_a_bounded_number_of_tokens_at_once(model, prompts, monkeypatch):
    monkeypatch.setattr("qwen_ner.inference.backends.decoding.PACK_TOKENS", 100)
    read = []
    forward = model.forward

    def count(*args, **inputs):
        read.append(tuple(inputs["input_ids"].shape))
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", count)
    backend = TorchBackend(model, (2, 0), 0)
    run(model, [*prompts, *prompts], 1, backend=backend)
    own = [len(prompt) - len(backend.prefix.ids) for prompt in prompts]
    (_, _), *passes = read  # the first is that of the prefix
    assert sum(rows * columns for rows, columns in passes) == sum(own)  # equal ones once
    assert all(columns <= 100 for _, columns in passes)
    assert len(passes) <= 2 * sum(own) / 100 + 1


class Scripted:
    """Forecasts what it is given, right or wrong, and allows everything."""

    closed = False

    def __init__(self, forecasts):
        self.forecasts, self.taken = forecasts, 0

    def forecast(self, limit):
        return self.forecasts(self.taken)[:limit]

    def advance(self, token):
        self.taken += 1


@pytest.mark.parametrize("right", [0, 1, 3, 9])
def test_drafts_change_nothing_but_the_number_of_passes(model, prompts, right, monkeypatch):
    """Of each draft the first `right` tokens are those that the model writes, the others are not."""
    monkeypatch.setattr("qwen_ner.inference.backends.decoding.PACK_TOKENS", 10_000)  # one pass over all prompts
    plain = run(model, prompts)
    rows = list(range(len(prompts)))

    def script(row):
        ids = plain[row].ids
        return Scripted(
            lambda taken: [*ids[taken : taken + right], *[(token + 1) % 100 + 10 for token in ids[taken + right :]]]
        )

    passes = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **inputs: passes.append(1) or forward(*args, **inputs))
    drafted = run(model, prompts, hints=[script(row) for row in rows])
    for one, other in zip(drafted, plain, strict=True):
        assert (one.ids, one.finished) == (other.ids, other.finished)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    # The prefix, the rest of the prompts with the first token, then as many tokens a pass as the draft was right and one.
    assert len(passes) == 2 + math.ceil(11 / (1 + min(right, 6)))
    with monkeypatch.context() as few:
        few.setattr("qwen_ner.inference.backends.decoding.DRAFT_ROWS", 3)  # drafts begin when others have left
        ends = (plain[0].ids[1], plain[3].ids[6])
        short = run(model, prompts, ends=ends, hints=[script(row) for row in rows])
        assert ids_of(short) == ids_of(run(model, prompts, ends=ends))


def test_a_grammar_binds_and_forecasts_and_the_end_is_not_asked_for(model, prompts, tokenizer, codec):
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    texts = [gold.text for gold in EIGHT]

    def guides():
        return [grammar.constraint(text, 24) for text in texts]

    bound = run(model, prompts, 24, constraints=guides())
    for text, one in zip(texts, bound, strict=True):
        assert one.finished
        assert codec.decode(text, tokenizer.decode(one.ids)).problems == ()
        assert len(one.logprobs) == len(one.ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwen_ner.inference.backends.decoding.DRAFT_ROWS", 0)
        again = run(model, prompts, 24, constraints=guides())
    assert ids_of(again) == ids_of(bound)
    # Hints do not bind: what the model writes by itself is the same.
    assert ids_of(run(model, prompts, 24, hints=guides())) == ids_of(run(model, prompts, 24))


@pytest.mark.parametrize("drafts", [0, 8])
def test_bound_rows_are_written_together_as_alone(model, prompts, tokenizer, monkeypatch, drafts):
    """Most of the random model's own choices may not come, so that rows choose among few tokens, each in its own set."""
    monkeypatch.setattr("qwen_ner.inference.backends.decoding.DRAFT_ROWS", drafts)
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    guides = [grammar.constraint(gold.text, 24) for gold in EIGHT]
    together = run(model, prompts, 24, constraints=guides)
    for prompt, one, text in zip(prompts, together, (gold.text for gold in EIGHT), strict=True):
        guide, expected = grammar.constraint(text, 24), []
        while not guide.closed:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *one.ids[: len(expected)]]])).logits[0, -1]
            token = max(guide.allowed(), key=logits.tolist().__getitem__)
            expected.append(token)
            guide.advance(token)
            assert one.logprobs[len(expected) - 1] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)
        assert one.ids == expected


def test_a_hot_random_model_writes_valid_answers(model, prompts, tokenizer, codec):
    """Temperature 1.5, and texts of quotes, backslashes, braces, emoji, one character."""
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    texts = ['他说"好"', "a\\b\\", "{}[]:,", "😀👨‍👩‍👧", "一", '"', "\\", "x\ufffdy", "é\u0301e", "\x00\x1f\n\t"]
    for limit, top_p in ((3, 1.0), (9, 0.5), (40, 1.0), (40, 0.9)):
        hot = run(
            model,
            prompt_ids(tokenizer, codec, texts),
            limit,
            draws=[Draw(1.5, top_p, seed) for seed in range(len(texts))],
            constraints=[grammar.constraint(text, limit) for text in texts],
        )
        for text, one in zip(texts, hot, strict=True):
            assert one.finished
            decoded = codec.decode(text, tokenizer.decode(one.ids))
            assert decoded.problems == ()
            assert decoded.ungrounded == ()


def drawn(model, prompts, limit=12, seed=0, temperature=1.5, top_p=1.0, **options):
    draws = [Draw(temperature, top_p, seed + n) for n in range(len(prompts))]
    return run(model, prompts, limit, draws=draws, **options)


def next_logits(model, prompt):
    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt])).logits[0, -1].double()


def by_hand(logits, temperature, top_p):
    """softmax(logits / temperature) without what lies outside the nucleus, one token after the other."""
    weights, mass, kept = (logits / temperature).softmax(-1), 0.0, {}
    for token in weights.argsort(descending=True).tolist():
        if mass >= top_p:
            break
        kept[token] = float(weights[token])
        mass += kept[token]
    return {token: weight / mass for token, weight in kept.items()}


def assert_drawn_from(tokens, expected):
    """Pearson's chi-square, rare tokens taken together; exceeded by chance once in 100,000 times (Wilson-Hilferty)."""
    counts, total = Counter(tokens), len(tokens)
    assert set(counts) <= set(expected)
    common = [token for token, share in expected.items() if share * total >= 5]
    rest = total - sum(counts[token] for token in common), 1 - sum(expected[token] for token in common)
    cells = [*((counts[token], expected[token]) for token in common), *([rest] if rest[1] * total >= 1 else [])]
    assert len(cells) > 1
    chi_square = sum((found - share * total) ** 2 / (share * total) for found, share in cells)
    free = len(cells) - 1
    assert chi_square < free * (1 - 2 / (9 * free) + 4.265 * math.sqrt(2 / (9 * free))) ** 3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.1, 1.0), (1.0, 0.5), (2.0, 0.05), (0.3, 0.7)])
def test_tokens_are_drawn_as_often_as_softmax_says(model, prompts, temperature, top_p):
    logits = next_logits(model, prompts[0])
    found = drawn(model, [prompts[0]] * 4000, 1, temperature=temperature, top_p=top_p, ends=(-1,))
    assert_drawn_from([one.ids[0] for one in found], by_hand(logits, temperature, top_p))
    own = logits.log_softmax(-1)
    assert [one.logprobs[0] for one in found] == pytest.approx([float(own[one.ids[0]]) for one in found], abs=1e-4)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 0.9), (1.0, 0.001)])
def test_under_a_grammar_the_shares_of_what_may_come_are_renormalized(model, prompts, tokenizer, temperature, top_p):
    """What the grammar leaves of the nucleus; if that is nothing, as with so small a top_p, the nucleus of its tokens."""
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    may_come = grammar.constraint(EIGHT[0].text, 40).allowed()
    logits = next_logits(model, prompts[0])
    left = {token: share for token, share in by_hand(logits, temperature, top_p).items() if token in may_come}
    if top_p == 0.001:
        assert not left
        left = {may_come[n]: share for n, share in by_hand(logits[may_come], temperature, top_p).items()}
    guides = [grammar.constraint(EIGHT[0].text, 40) for _ in range(2000)]
    options = {"temperature": temperature, "top_p": top_p, "constraints": guides}
    found = [one.ids[0] for one in drawn(model, [prompts[0]] * 2000, 1, **options)]
    if len(left) == 1:
        assert set(found) == set(left)
    else:
        assert_drawn_from(found, {token: share / sum(left.values()) for token, share in left.items()})


def test_what_is_drawn_depends_on_the_seed_alone(model, prompts):
    """Not on the batch, the order, copies of the prompt beside it, greedy rows or drafts."""
    draws = [Draw(1.0, 0.95, 7 + n % 3) for n in range(2 * len(prompts))]
    twice = prompts * 2
    found = run(model, twice, draws=draws)
    assert len({tuple(one.ids) for one in found}) > len(prompts)
    for budget in (1, 200):
        assert ids_of(run(model, twice, draws=draws, batch_tokens=budget)) == ids_of(found)
    assert ids_of(run(model, twice[::-1], draws=draws[::-1])) == ids_of(found)[::-1]
    mixed = run(model, [*prompts, *twice], draws=[*([None] * len(prompts)), *draws])
    assert ids_of(mixed) == [*ids_of(run(model, prompts)), *ids_of(found)]
    wrong = [Scripted(lambda taken: [5, 6, 7]) for _ in prompts]
    right = [Scripted(lambda taken, ids=one.ids: ids[taken:]) for one in found]
    for hints in (wrong, right[: len(prompts)]):
        assert ids_of(run(model, prompts, draws=draws[: len(prompts)], hints=hints)) == ids_of(found)[: len(prompts)]


def test_a_temperature_near_zero_is_greedy(model, prompts):
    for temperature in (1e-4, 1e-30, 1e-300):
        assert ids_of(drawn(model, prompts, temperature=temperature)) == ids_of(run(model, prompts))
    assert ids_of(drawn(model, prompts, top_p=1e-9)) == ids_of(run(model, prompts))
    assert ids_of(drawn(model, prompts)) != ids_of(run(model, prompts))


def test_equal_prompts_are_read_once(model, prompts, monkeypatch):
    fed, forward = [], model.forward

    def count(*args, **inputs):
        fed.append(tuple(inputs["input_ids"].shape))
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", count)
    drawn(model, [prompt for prompt in prompts[:3] for _ in range(5)], ends=(-1,))
    prefix, read, *steps = fed
    assert read == (1, sum(len(prompt) - prefix[1] for prompt in prompts[:3]))
    assert (prefix[0], set(steps)) == (1, {(15, 1)})


@pytest.mark.parametrize(
    ("lengths", "budget", "rows"), [([3, 9, 5, 4, 2], 41, [1, 2, 2]), ([30, 1], 41, [1, 1]), ([5] * 7, 51, [3, 3, 1])]
)
def test_batches_hold_the_budget_longest_first(model, lengths, budget, rows):
    """Of the lengths, an answer has 12 more; a prompt longer than the budget goes alone."""
    seen = []
    run(model, [[9, *range(3, 2 + length)] for length in lengths], batch_tokens=budget, on_rows=seen.append)
    assert seen == rows


def out_of_memory(*args, **inputs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("passes_before", [0, 5])
def test_a_batch_that_runs_out_of_memory_is_halved_and_that_is_remembered(
    model, prompts, tokenizer, monkeypatch, caplog, passes_before
):
    """Out of memory at once, and in the middle of the answers, when their constraints have been advanced."""
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    texts = [gold.text for gold in EIGHT] * 2

    def constraints():
        return [grammar.constraint(text, 24) for text in texts]

    roomy, short = constraints(), constraints()
    plain = run(model, prompts * 2, 24, (2,), constraints=roomy)
    forward, passes = model.forward, []

    def short_of_memory(*args, **inputs):
        passes.append(len(inputs["input_ids"]))
        if len(passes) > passes_before + 1 and passes[-1] > 3:  # the first pass is the prefix's
            out_of_memory()
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", short_of_memory)
    rows = []
    backend = TorchBackend(model, (2,), 0)
    again = run(model, prompts * 2, 24, backend=backend, constraints=short, on_rows=rows.append)
    assert [(one.ids, one.finished) for one in again] == [(one.ids, one.finished) for one in plain]
    assert [one.forced_surfaces for one in short] == [one.forced_surfaces for one in roomy]
    assert all(one.closed or one.state is None for one in short)
    assert sum(rows) == 16
    assert max(rows) <= 4
    assert backend.batch_tokens < 16_384
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == len(set(warned)) <= 3  # 16 rows, 8, 4: each size once
    run(model, prompts * 2, 24, backend=backend, batch_tokens=100_000)
    assert len(caplog.records) == len(warned)


def test_what_does_not_fit_into_memory_by_itself_is_an_error(model, prompts, monkeypatch):
    backend = TorchBackend(model, (2, 0), 0)
    backend.prefix.common(model, prompts)
    monkeypatch.setattr(model, "forward", out_of_memory)
    with pytest.raises(NerError, match="memory") as caught:
        run(model, prompts, 12, backend=backend)
    assert caught.value.value == max(len(prompt) for prompt in prompts) + 12
    assert "a smaller model" in caught.value.remedy


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
    ],
)
@pytest.mark.parametrize("failures", [1, 2])
def test_a_prefix_that_runs_out_of_memory_is_tried_once_more(model, prompts, monkeypatch, error, failures):
    """The first failure frees what was held in cycles."""
    plain, forward, passes = ids_of(run(model, prompts)), model.forward, []

    def short_of_memory(*args, **inputs):
        passes.append(inputs["input_ids"].shape)
        if len(passes) <= failures:
            raise error
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", short_of_memory)
    if failures == 1:
        assert ids_of(run(model, prompts)) == plain
        return
    with pytest.raises(NerError, match="memory") as caught:
        run(model, prompts)
    assert caught.value.value == len(shared_prefix(prompts))
    assert "system_prompt" in caught.value.remedy
    assert len(passes) == 2


def test_another_fault_of_the_model_is_no_lack_of_memory(model, prompts, monkeypatch):
    monkeypatch.setattr(model, "forward", lambda *a, **i: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(model, prompts)


@pytest.mark.parametrize("kind", ["window", "adapter"])
def test_other_models_generate_the_same_way(tiny, prompts, kind):
    """Sliding windows share no prefix; an adapter is used as it stands, unmerged."""
    torch.manual_seed(0)
    if kind == "window":
        window = {
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention"],
        }
        config = Qwen2Config.from_pretrained(tiny, **window)
        model = Qwen2ForCausalLM(config).eval()
    else:
        model = load_model(str(tiny), lora={"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}).eval()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    wrong = [Scripted(lambda taken: [5, 6, 7]) for _ in prompts]
    for found in (run(model, prompts), run(model, prompts, hints=wrong)):
        for prompt, one in zip(prompts, found, strict=True):
            assert one.ids == until_end(one_by_one(model, prompt, 12), {2, 0})[0]


def test_the_generation_config_that_a_model_ships_changes_nothing(model, prompts):
    plain = run(model, prompts)
    shipped = GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.5, no_repeat_ngram_size=2,
        eos_token_id=[7], suppress_tokens=plain[0].ids[:1], min_new_tokens=5, max_length=3,
    )  # fmt: skip
    before, model.generation_config = model.generation_config, shipped
    try:
        assert run(model, prompts) == plain
        assert model.generation_config is shipped
    finally:
        model.generation_config = before


def test_an_end_token_ends_and_its_absence_is_seen(model, prompts):
    (free,) = run(model, prompts[:1])
    assert (free.finished, len(free.ids)) == (False, 12)
    third = free.ids[2]
    (ended,) = run(model, prompts[:1], ends=(third,))
    assert ended.finished
    assert ended.ids == free.ids[: free.ids.index(third)]


def test_nothing_to_do_gives_nothing(model):
    assert run(model, []) == []


def test_padding_is_on_the_left():
    batch = pad_left([[5, 6, 7], [8]], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("device", "native", "dtype"), [("cuda", True, "bfloat16"), ("cuda:1", False, "float32"), ("cpu", True, "float32")]
)
def test_bfloat16_is_the_default_only_on_a_gpu_that_has_it(monkeypatch, device, native, dtype):
    """Not on one that emulates it."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert default_dtype(device) == dtype


def test_an_unknown_dtype_is_refused_with_those_there_are(tiny, tokenizer):
    with pytest.raises(NerError) as caught:
        TorchBackend.load(tiny, tokenizer, None, dtype="int8")
    assert (caught.value.place, caught.value.value) == ("dtype", "int8")
    assert "bfloat16" in caught.value.remedy
