"""A training whose passes are replayed as graphs ends as one whose passes are launched kernel by kernel."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from gpu_kernels import record_on_a_cpu
from rows import EIGHT

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.training.batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from qwen_ner.training.batches.gpu.graphs import GraphedPasses
from qwen_ner.training.batches.step import StepTransform
from qwen_ner.training.batches.transforms import TRANSFORMS
from qwen_ner.training.loop import trainer as module
from qwen_ner.training.loop.trainer import NerTrainer, obstacle
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": 0.0}


@pytest.fixture
def rows(tokenizer):
    return build_dataset(EIGHT * 4, Codec(CLUENER), tokenizer).to_list()


def make_trainer(tiny, rows, tokenizer, folder, lora=None, collate=None, **args):
    torch.manual_seed(1)  # of the adapter
    model = load_model(str(tiny), lora=lora)
    settings = {
        "max_steps": 12, "per_device_train_batch_size": 4, "seed": 3, "report_to": "none", "eval_strategy": "no",
        "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True, "learning_rate": 0.05,
        "optim": "sgd", "use_cpu": True, **args,  # Adam takes rounding for a gradient where it is 0
    }  # fmt: skip
    return NerTrainer(
        model=model, args=NerTrainingArguments(output_dir=str(folder), **settings), processing_class=tokenizer,
        ner_config=NerConfig(CLUENER, "找出实体", 8, (2, 0)), data_collator=collate or choose_collator(model, 0),
        train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:2]),
    )  # fmt: skip


def trained(trainer):
    torch.manual_seed(5)
    losses = []
    run = trainer.training_step
    trainer.training_step = lambda *args: losses.append(run(*args)) or losses[-1]
    trainer.train()
    weights = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    return torch.stack(losses), weights


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_replayed_training_is_the_launched_one(tiny, rows, tokenizer, tmp_path, monkeypatch, lora, accumulated):
    """Also where a batch of another shape, which no graph is for, comes between."""
    args = (tiny, rows[:-3], tokenizer, tmp_path, lora)
    wanted = trained(make_trainer(*args, gradient_accumulation_steps=accumulated))
    replays = record_on_a_cpu(monkeypatch)
    monkeypatch.setattr(module, "obstacle", lambda trainer: "")
    monkeypatch.setattr(GraphedPasses, "_record", computed_once(GraphedPasses._record))
    trainer = make_trainer(*args, gradient_accumulation_steps=accumulated)
    losses, weights = trained(trainer)
    assert 12 * accumulated // 2 < len(replays) < 12 * accumulated
    assert losses.numpy() == pytest.approx(wanted[0].numpy(), rel=1e-4)
    for name, weight in wanted[1].items():
        assert (weights[name] - weight).abs().max() < 1e-4, name
    assert trainer.graphs is None, "its memory is free again"
    assert not trainer.data_collator.collate.padded


def computed_once(record):
    """On a CPU recording computes, too: undo what it adds to the gradients."""

    def undone(self, *args):
        before = {weight: None if weight.grad is None else weight.grad.clone() for weight in self.trained}
        record(self, *args)
        for weight, gradient in before.items():
            weight.grad = gradient

    return undone


def test_where_no_graph_can_be_recorded_training_goes_on(tiny, rows, tokenizer, tmp_path, monkeypatch, caplog):
    wanted = trained(make_trainer(tiny, rows, tokenizer, tmp_path))
    monkeypatch.setattr(module, "obstacle", lambda trainer: "")

    def fail(device):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "device", fail)
    found = trained(make_trainer(tiny, rows, tokenizer, tmp_path))
    assert len([record for record in caplog.records if "not permitted" in record.message]) == 1
    for name, weight in wanted[1].items():
        assert (found[1][name] - weight).abs().max() < 1e-4, name


def test_what_stands_against_a_graph_is_told(tiny, rows, tokenizer, tmp_path, monkeypatch, caplog):
    def reason(change=lambda trainer: None, **args):
        monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
        model = load_model(str(tiny))
        collate = args.pop("collate", replace(choose_collator(model, 0), varlen=True))
        trainer = make_trainer(tiny, rows, tokenizer, tmp_path, collate=collate, bf16=True, **args)
        change(trainer)
        monkeypatch.setattr(NerTrainingArguments, "device", torch.device("cuda"))
        try:
            return obstacle(trainer)
        finally:
            monkeypatch.undo()

    class Custom(StepTransform):
        pass

    assert reason() == ""
    assert "GPU" in obstacle(make_trainer(tiny, rows, tokenizer, tmp_path))
    assert "shapes" in reason(collate=PaddedCollator(0))
    assert "shapes" in reason(collate=PrefixSharedCollator("eager"))
    assert "checkpointed" in reason(gradient_checkpointing=True)
    assert "torch_empty_cache_steps" in reason(torch_empty_cache_steps=5)
    assert "hooks" in reason(lambda trainer: trainer.model.model.register_forward_hook(print))
    assert "hooks" in reason(lambda trainer: trainer.model.lm_head.weight.register_hook(print))
    assert "galore_adamw_layerwise" in reason(lambda trainer: setattr(trainer.args, "optim", "galore_adamw_layerwise"))
    monkeypatch.setitem(TRANSFORMS, "custom", Custom)
    assert "transform" in reason(step_transforms=["custom"])


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_a_transform_that_is_replayable_waits_for_nothing(tiny, rows, tokenizer, tmp_path, monkeypatch, name):
    """`Recorded` would repeat a value that Python has read; a boolean index would be of the first batch's size."""
    if not TRANSFORMS[name].replayable:
        pytest.skip("it is launched kernel by kernel")
    args, more = (tiny, rows, tokenizer, tmp_path), {"step_transforms": [name], "label_smoothing_factor": 0.0}
    if name == "label_smoothing":
        more["label_smoothing_factor"] = 0.1
    wanted = trained(make_trainer(*args, **more))
    replays = record_on_a_cpu(monkeypatch)
    monkeypatch.setattr(module, "obstacle", lambda trainer: "")
    monkeypatch.setattr(GraphedPasses, "_record", computed_once(GraphedPasses._record))
    losses, _ = trained(make_trainer(*args, **more))
    assert replays
    assert losses.numpy() == pytest.approx(wanted[0].numpy(), rel=1e-4)


def test_packs_of_as_many_rows_are_of_few_shapes(rows):
    collate = PrefixSharedCollator(varlen=True, padded=True)
    batches = [collate(rows[at : at + 8]) for at in range(24)]
    assert len({tuple((name, value.shape) for name, value in batch.items()) for batch in batches}) <= 3
    plain = PrefixSharedCollator(varlen=True)(rows[:8])
    tokens = plain["input_ids"].shape[1]
    batch = batches[0]
    assert batch["input_ids"][:, :tokens].equal(plain["input_ids"])
    assert batch["input_ids"].shape[1] <= tokens * 1.3 + 64
    assert batch["labels"][:, tokens:].eq(-100).all()
    labelled = batch["shift_labels"] != -100
    assert batch["logits_to_keep"][labelled[0]].equal(plain["logits_to_keep"])
    assert batch["shift_labels"][labelled].equal(plain["shift_labels"][0])
