"""What a training is said to cost is what it costs, where that can be measured here: on the CPU."""

from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from rows import EIGHT
from training.batches.gpu.test_launches import CONFIG, make_rows
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.training.arguments import CHECKPOINTING, NerTrainingArguments
from qwen_ner.training.batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from qwen_ner.training.batches.reduced_head import head_over, tokens_of
from qwen_ner.training.batches.swiglu import recompute_activation
from qwen_ner.training.doctor.costs import (
    BESIDE_THE_WEIGHTS,
    checkpoint_bytes,
    computed_tokens,
    count_steps,
    evaluation_bytes,
    expected_memory,
    kept_checkpoints,
    largest_batch,
    parameters,
    pass_bytes,
)
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import add_adapter, load_model, outline_model

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}


@pytest.fixture
def rows(codec, tokenizer):
    return build_dataset(EIGHT, codec, tokenizer).to_list()


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_a_pass_takes_what_one_on_real_tensors_allocates(tiny, rows, lora, bf16, checkpointing):
    model = recompute_activation(load_model(str(tiny), lora=lora)).train()
    collator, tokens = choose_collator(model, 0), tokens_of(Dataset.from_list(rows))
    if checkpointing:
        getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": False})
        model.enable_input_require_grads()
    with head_over(tokens, model):
        _, peak = pass_bytes(model, collator(rows), bf16=bf16)
    outline = outline_model(str(tiny), lora=lora)
    expected = expected_memory(outline, rows, collator, bf16=bf16, checkpointing=checkpointing, tokens=tokens)
    assert expected.activations == pytest.approx(peak - expected.gradients, rel=0.02)
    assert expected.weights == 4 * sum(p.numel() for p in model.parameters())
    assert (
        expected.optimizer
        == 2 * expected.gradients
        == 8 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    )


def test_checkpointing_takes_less(tiny, rows):
    def activations(**options):
        model = outline_model(str(tiny))
        return expected_memory(model, rows * 8, choose_collator(model, 0), bf16=False, **options).activations

    assert activations(checkpointing=True) < 0.8 * activations()


def test_live_bytes_are_those_that_torch_allocates(tiny, rows):
    """The profiler counts at torch's allocator, what kernels take for themselves included."""
    model = load_model(str(tiny)).train()
    batch = choose_collator(model, 0)(rows)
    _, peak = pass_bytes(model, batch, bf16=False)
    model.zero_grad()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        model(**batch).loss.backward()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    most = max(accumulate(size for _, size in sorted(changes)))
    assert peak == pytest.approx(most, rel=0.1)


def test_live_bytes_by_arithmetic():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(3, 7, bias=False), torch.nn.Linear(7, 1, bias=False)

        def forward(self, x):
            return SimpleNamespace(loss=self.second(self.first(x)).sum())

    forward, peak = pass_bytes(Model(), {"x": torch.ones(5, 3)}, bf16=False)
    # The transposed weights are views; the sum comes while its input is there.
    assert forward == 4 * (5 * 7 + 5 * 1 + 1)
    # The gradients of the loss, of the second layer's weight and of its input, while that input is still there.
    assert peak == 4 * (5 * 7 + 1 + 1 + 7 + 5 * 7)


def test_padded_batches_cost_more_and_are_counted_about_right(tiny, rows):
    model, collator = load_model(str(tiny)).train(), PaddedCollator(0)
    _, peak = pass_bytes(recompute_activation(model), collator(rows), bf16=False)
    expected = expected_memory(outline_model(str(tiny)), rows, collator, bf16=False)
    assert expected.activations + expected.gradients == pytest.approx(peak, rel=0.05)


def test_the_largest_batch_of_rows_in_random_order_is_smaller_than_the_longest_rows():
    lengths = [*range(10, 110)] * 10

    def tokens(**options):
        places = largest_batch(lengths, 20, **options)
        assert len(set(places)) == 20, "no row twice"
        return sum(lengths[place] for place in places)

    assert tokens(epochs=1, shuffled=False) == 20 * 109 - 10  # ten rows of 109, ten of 108
    mean = sum(lengths) / 50
    assert mean < tokens(epochs=1, shuffled=True) <= tokens(epochs=30, shuffled=True) < 1.5 * mean
    assert largest_batch([3, 1, 2], 5, 1, shuffled=True) == [0, 2, 1], "a batch of all"


MEASURED = {
    (True, 15): 2.3, (True, 60): 4.3, (True, 240): 13.3, (False, 15): 8.0, (False, 60): 10.7, (False, 240): 23.9,
}  # fmt: skip
"""GiB at the peak of a step on an H100, in the shape of Qwen2.5-0.5B: by adapter (rank 16) or not, and rows."""


def on_a_gpu(lora, count, **options):
    """The estimate for the model and the rows that were measured."""
    pytest.importorskip("torch.nn.attention.varlen")
    with torch.device("meta"):
        model = Qwen2ForCausalLM._from_config(Qwen2Config(**CONFIG), attn_implementation="sdpa")
        model = add_adapter(model, {**LORA, "r": 16, "lora_dropout": 0.0} if lora else None)
    rows = make_rows(count)
    tokens = tokens_of(Dataset.from_list(rows))
    evaluation = evaluation_bytes(model, make_rows(64), 128)
    options = {"bf16": True, "fused": True, "tokens": tokens, **options}
    return expected_memory(model, rows, PrefixSharedCollator(), **options), evaluation


@pytest.mark.parametrize(("lora", "count"), MEASURED)
def test_a_step_on_a_gpu_takes_what_was_measured(lora, count):
    expected, _ = on_a_gpu(lora, count)
    assert expected.total / 2**30 == pytest.approx(MEASURED[lora, count], rel=0.15)


def test_a_training_on_a_gpu_takes_what_was_measured():
    """An H100 reserved 9.0 GiB for a whole training with an adapter at 60 rows, its evaluations and graphs included."""
    expected, evaluation = on_a_gpu(True, 60, graphs=True)
    assert replace(expected, evaluation=evaluation).total / 2**30 == pytest.approx(9.0, rel=0.15)


def test_graphs_hold_a_pass_and_gradients_of_their_own():
    launched, _ = on_a_gpu(False, 15)
    replayed, _ = on_a_gpu(False, 15, graphs=True)
    assert (launched.graphs, replayed.gradients) == (0, 2 * launched.gradients)
    assert replayed.graphs >= replayed.activations >= launched.activations


def test_several_processes_hold_the_gradients_twice_or_share(tiny, rows):
    def memory(processes):
        return expected_memory(outline_model(str(tiny)), rows, PaddedCollator(0), bf16=False, processes=processes)

    one, four = memory(1), memory(4)
    assert four.gradients == 2 * one.gradients
    shared = one.sharded(4, weights=True, states=True)
    assert (shared.weights, shared.optimizer, shared.activations) == (
        one.weights // 4,
        one.optimizer // 4,
        one.activations,
    )
    assert one.sharded(4, weights=False, states=False) == one


def test_an_outline_needs_no_weights_and_says_what_it_needs(tmp_path, tiny):
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    model = AutoModelForCausalLM.from_pretrained(tiny)
    for lora in (None, LORA):
        outline = outline_model(str(tmp_path), lora=lora)
        real = parameters(add_adapter(model, lora))
        assert parameters(outline) == real
        assert all(p.is_meta for p in outline.parameters())
    with pytest.raises(NerError, match="no such folder") as error:
        outline_model(str(tmp_path / "nothing"))
    assert (error.value.place, error.value.value) == ("model_name_or_path", str(tmp_path / "nothing"))
    (tmp_path / "config.json").unlink()
    with pytest.raises(NerError, match=r"config\.json") as error:
        outline_model(str(tmp_path))
    assert "config.json" in error.value.remedy


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    "options", [{"num_train_epochs": 1.5}, {"max_steps": 3}, {"num_train_epochs": 1, "gradient_accumulation_steps": 2}]
)
def test_steps_and_checkpoints_are_those_that_the_trainer_makes(tiny, tokenizer, codec, tmp_path, lora, options):
    args = NerTrainingArguments(
        output_dir=str(tmp_path / "out"), use_cpu=True, per_device_train_batch_size=3, save_strategy="steps", save_steps=1, save_total_limit=2,
        eval_strategy="no", load_best_model_at_end=False, disable_tqdm=True, report_to="none", **options,
    )  # fmt: skip
    model = load_model(str(tiny), lora=lora)
    trainer = NerTrainer(
        model=model, args=args, ner_config=NerConfig(CLUENER, codec.system_prompt, 64, (2, 0)), processing_class=tokenizer,
        data_collator=PaddedCollator(0), train_dataset=build_dataset(EIGHT, codec, tokenizer),
    )  # fmt: skip
    trainer.train()
    total, an_epoch = count_steps(args, 8, 1)
    assert trainer.state.global_step == total
    left = list((tmp_path / "out").glob("checkpoint-*"))
    assert len(left) == min(total, 2) == kept_checkpoints(args, total, an_epoch) - (total > 2)
    written = sum(file.stat().st_size for file in left[0].rglob("*") if file.is_file())
    expected = checkpoint_bytes(*parameters(model), lora is not None)
    assert expected - BESIDE_THE_WEIGHTS < written < expected


@pytest.mark.parametrize(
    ("strategy", "limit", "best", "steps", "save_steps", "expected"),
    [("no", 2, True, 100, 5, 0), ("steps", None, True, 100, 5, 20), ("steps", None, True, 100, 0.1, 10),
     ("steps", 0, True, 100, 5, 20), ("epoch", 1, True, 100, 5, 3),
     ("epoch", 1, False, 100, 5, 2), ("epoch", 5, True, 20, 5, 2), ("epoch", 2, True, 5130, 5, 3)],
)  # fmt: skip
def test_checkpoints_on_the_disk_at_one_time(strategy, limit, best, steps, save_steps, expected):
    args = SimpleNamespace(
        save_strategy=strategy, save_total_limit=limit, load_best_model_at_end=best, save_steps=save_steps
    )
    assert kept_checkpoints(args, steps, 10) == expected


def test_steps_by_arithmetic(tmp_path):
    args = NerTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=15, num_train_epochs=30
    )
    assert count_steps(args, 10_248, 4) == (5130, 171)


def test_the_tokens_of_a_pass_are_those_of_its_batches(rows):
    model = AutoModelForCausalLM.from_config(outline_config())
    collator = choose_collator(model, 0)
    batches = [rows[i : i + 3] for i in range(0, len(rows), 3)]
    computed = sum(collator(batch)["input_ids"].numel() for batch in batches)
    lengths = [row["length"] for row in rows]
    said = computed_tokens([row["prompt_ids"] for row in rows], lengths, 3)
    assert computed <= said <= computed + 3 * len(batches), "a batch may have a longer prefix than all rows"
    assert said < sum(lengths)


def outline_config():
    from transformers import Qwen2Config

    return Qwen2Config(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, vocab_size=2000)  # fmt: skip
