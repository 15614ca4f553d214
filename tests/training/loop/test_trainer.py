"""The laws of training, on a model of two layers."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rows import EIGHT
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.evaluation.scoring import score
from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.inference.extractor import Extractor
from qwen_ner.training.batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from qwen_ner.training.loop.metrics import EntityMetrics
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}


@pytest.fixture
def make_trainer(tiny, tokenizer, codec, tmp_path):
    def make(lora=None, name="out", model=None, collator=None, **options):
        args = NerTrainingArguments(
            output_dir=str(tmp_path / name),
            **{
                "use_cpu": True, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "per_device_train_batch_size": 8,
                "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True,
                "report_to": "none", "logging_strategy": "no", **options,
            },
        )  # fmt: skip
        rows = build_dataset(EIGHT, codec, tokenizer)
        return NerTrainer(
            model=model or load_model(str(tiny), lora=lora),
            args=args,
            ner_config=NerConfig(CLUENER, codec.system_prompt, 64, (2, 0)),
            processing_class=tokenizer,
            data_collator=collator or PaddedCollator(tokenizer.pad_token_id),
            train_dataset=rows,
            eval_dataset=rows,
            compute_metrics=EntityMetrics(EIGHT, codec, tokenizer, (2, 0)),
        )

    return make


@pytest.mark.parametrize("lora", [None, LORA])
def test_on_a_gpu_an_evaluation_reads_with_what_ships(make_trainer, monkeypatch, tmp_path, lora):
    """The saved folder as `Extractor` loads it there: the adapter merged, in bfloat16. Here on the CPU."""
    monkeypatch.setattr("qwen_ner.training.loop.whole_model.default_dtype", lambda device: "bfloat16")
    monkeypatch.setattr("qwen_ner.inference.backends.torch.pack", lambda model: model)  # which only a CPU does
    trainer = make_trainer(lora, max_steps=40, learning_rate=2e-2)
    trainer.whole.copy_first()
    trainer.train()
    scored = {name: weight.clone() for name, weight in trainer.whole.get().state_dict().items()}
    predicted = trainer.predict(trainer.eval_dataset).predictions
    trainer.save_model()
    loaded = TorchBackend.load(tmp_path / "out", trainer.processing_class, trainer.ner_config, dtype="bfloat16")
    shipped = loaded.model.state_dict()
    assert scored.keys() == shipped.keys()
    assert all(torch.equal(scored[name], shipped[name]) for name in shipped), "bit for bit"
    written = loaded.complete([row["prompt_ids"] for row in trainer.eval_dataset], 64)
    assert [[t for t in row if t >= 0 and t not in (0, 2)] for row in predicted.tolist()] == [
        one.ids for one in written
    ]
    assert any(one.ids for one in written)
    assert trainer.whole._copy is None, "not kept for other weights"


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def unscored(decoded):
    return decoded.scored({})


def test_eight_rows_are_learned_by_heart_and_the_folder_gives_the_number_that_training_gave(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=80)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_f1"] == metrics["eval_span_f1"] == 1.0
    trainer.save_model()
    extractor = Extractor.from_pretrained(tmp_path / "out")
    decoded = extractor.predict([gold.text for gold in EIGHT])
    assert score(EIGHT, decoded, CLUENER).f1 == 1.0
    assert [unscored(d).entities for d in decoded] == [gold.entities for gold in EIGHT]


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_another_architecture_is_another_name(make_trainer, tiny, tokenizer, tmp_path, architecture):
    """Any causal LM with a chat template; Qwen3 has norms on queries and keys, and heads of their own size."""
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, tie_word_embeddings=True, initializer_range=0.05,
        pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    collator = choose_collator(model, 0)
    assert isinstance(collator, PrefixSharedCollator)
    trainer = make_trainer(model=model, collator=collator, max_steps=80)
    trainer.train()
    trainer.save_model()
    decoded = Extractor.from_pretrained(tmp_path / "out").predict([gold.text for gold in EIGHT])
    assert score(EIGHT, decoded, CLUENER).f1 > 0.9


def test_f1_does_not_depend_on_the_batch_size(make_trainer):
    trainer = make_trainer(max_steps=17)
    trainer.train()
    found = []
    for size in (1, 7, 64):
        trainer.args.per_device_eval_batch_size = size
        metrics = trainer.evaluate()
        found.append({k: v for k, v in metrics.items() if not k.endswith(("loss", "second", "runtime", "time"))})
    assert 0 < found[0]["eval_f1"] < 1, "the law says nothing where all is right or wrong"
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(make_trainer, tmp_path, lora):
    options = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 3,
    }
    whole = make_trainer(lora, "whole", **options)
    whole.train()
    (tmp_path / "cut").mkdir()
    cut = make_trainer(lora, "cut", **options)
    cut.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert cut.state.global_step == 6
    assert largest_difference(weights(whole), weights(cut)) == 0.0


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_accumulation_changes_nothing(make_trainer, lora):
    # Adam divides by the gradient's size; with its usual epsilon a rounding error of a gradient near zero is a whole step.
    options = {"max_steps": 3, "adam_epsilon": 1e-3}
    once = make_trainer(lora, **options)
    once.train()
    often = make_trainer(lora, **options, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    often.train()
    assert largest_difference(weights(once), weights(often)) < 1e-5


def test_activation_checkpointing_changes_nothing(make_trainer):
    off = make_trainer(max_steps=3)
    off.train()
    on = make_trainer(max_steps=3, gradient_checkpointing=True)
    on.train()
    assert largest_difference(weights(off), weights(on)) < 1e-5


def test_only_the_adapter_learns(make_trainer):
    trainer = make_trainer(LORA, max_steps=2)
    before = weights(trainer)
    trainer.train()
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert not any("lm_head" in name or "embed" in name for name in changed)


def test_an_adapter_folder_extracts_as_the_trainer_did(make_trainer, tmp_path):
    trainer = make_trainer(LORA, max_steps=40)
    trainer.train()
    prediction = trainer.predict(trainer.eval_dataset)
    _, during = trainer.compute_metrics.decoded(prediction)
    trainer.save_model()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    after = Extractor.from_pretrained(tmp_path / "out").predict([gold.text for gold in EIGHT], constrained=False)
    assert [unscored(decoded) for decoded in after] == during
    assert any(decoded.surfaces for decoded in after)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_what_the_base_ships_for_generation_does_not_travel_on(make_trainer, tiny, tmp_path, lora):
    model = load_model(str(tiny), lora=lora)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, repetition_penalty=1.1)
    trainer = make_trainer(model=model)
    trainer.save_model()
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved["do_sample"] is False
    assert saved["repetition_penalty"] == 1.0
    assert saved["eos_token_id"] == [2, 0]


def test_weights_are_float32_whatever_the_checkpoint_is(tiny, tmp_path):
    load_model(str(tiny)).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert {p.dtype for p in load_model(str(tmp_path / "half")).parameters()} == {torch.float32}


def test_metrics_refuse_a_row_twice(codec, tokenizer):
    metrics = EntityMetrics(EIGHT, codec, tokenizer, (2, 0))
    twice = SimpleNamespace(predictions=np.array([[2], [2]]), label_ids=np.array([3, 3]))
    with pytest.raises(RuntimeError, match="each row must come once"):
        metrics(twice)


def test_metrics_find_gold_by_row_number_in_any_order(codec, tokenizer):
    metrics = EntityMetrics(EIGHT, codec, tokenizer, (2, 0))
    written = [[*tokenizer(codec.encode(gold))["input_ids"], 2] for gold in EIGHT]
    width = max(map(len, written)) + 3
    order = [5, 0, 7, 2]
    ids = np.array([written[i] + [-100] * (width - len(written[i])) for i in order])
    result = metrics(SimpleNamespace(predictions=ids, label_ids=np.array(order)))
    assert result["f1"] == 1.0
    assert result["rows"] == 4
    unfinished = np.where(ids == 2, -100, ids)
    assert metrics(SimpleNamespace(predictions=unfinished, label_ids=np.array(order)))["truncated"] == 4


@pytest.mark.parametrize("name", ["nowhere/at-all", "/no/such/folder"])
def test_a_model_that_is_not_there(name, caplog):
    with caplog.at_level(logging.CRITICAL), pytest.raises(NerError) as error:
        load_model(name)
    assert (error.value.place, error.value.value) == ("model_name_or_path", name)


def test_layers_that_do_not_exist_are_refused(tiny):
    with pytest.raises(NerError, match="q_prj") as error:
        load_model(str(tiny), lora={**LORA, "target_modules": ["q_prj"]})
    assert error.value.place == "lora_target_modules"
