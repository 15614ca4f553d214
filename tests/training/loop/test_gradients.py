"""No step is taken with gradients that are not finite."""

import logging
import math

import pytest
import torch
from rows import EIGHT

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.training.batches.collate import choose_collator
from qwen_ner.training.loop.gradients import PATIENCE
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments


@pytest.fixture
def make_trainer(tiny, tokenizer, tmp_path):
    """A trainer over EIGHT, row by row, whose model is poisoned where `poisoned` rows differ from the others."""

    def make(poisoned=(), **options):
        rows = build_dataset(EIGHT, Codec(CLUENER, "找出实体"), tokenizer)
        model = load_model(str(tiny))
        own = [set(row["prompt_ids"] + row["answer_ids"]) for row in rows]
        for bad in poisoned:
            token = next(iter(own[bad].difference(*(ids for n, ids in enumerate(own) if n != bad))))
            with torch.no_grad():
                model.get_input_embeddings().weight[token] = math.nan
        # The head is the embedding: it would carry one bad row of it to all rows.
        model.lm_head.weight = torch.nn.Parameter(torch.nan_to_num(model.lm_head.weight.detach()).clone())
        args = NerTrainingArguments(
            output_dir=str(tmp_path / "out"), use_cpu=True, per_device_train_batch_size=1, num_train_epochs=1, seed=3,
            train_sampling_strategy="sequential", eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
            report_to="none", logging_steps=1, disable_tqdm=True, **options,
        )  # fmt: skip
        return NerTrainer(
            model=model, args=args, ner_config=NerConfig(CLUENER, "找出实体", 64, (2, 0)), processing_class=tokenizer,
            train_dataset=rows, data_collator=choose_collator(model, tokenizer.pad_token_id),
        )  # fmt: skip

    return make


def finite(model):
    """Of all weights but the poisoned embedding."""
    return all(bool(p.isfinite().all()) for name, p in model.named_parameters() if "embed" not in name)


def test_a_gradient_that_is_no_number_stops_before_the_step_and_names_the_row(make_trainer):
    trainer = make_trainer(poisoned=[5])
    with pytest.raises(NerError, match="rows 5 of") as error:
        trainer.train()
    assert error.value.place == "step 6"
    assert "nonfinite_gradients: skip" in error.value.remedy
    assert trainer.state.global_step == 5
    assert finite(trainer.model)


def test_all_rows_of_an_accumulated_step_are_named(make_trainer):
    trainer = make_trainer(poisoned=[5], gradient_accumulation_steps=4)
    with pytest.raises(NerError, match="rows 4, 5, 6, 7 of") as error:
        trainer.train()
    assert error.value.place == "step 2"


def test_rows_have_the_names_that_the_user_knows(make_trainer):
    trainer = make_trainer(poisoned=[5])
    trainer.row_name = lambda row: f"own.jsonl:{row + 2}"
    with pytest.raises(NerError, match=r"rows own\.jsonl:7 of the training data"):
        trainer.train()


def test_skipping_leaves_the_steps_out_and_counts_them(make_trainer, caplog):
    trainer = make_trainer(poisoned=[2, 5], nonfinite_gradients="skip")
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.gradients.skipped == 2
    assert finite(trainer.model)
    said = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert [line.split(";")[0] for line in said] == [
        "step 3: the gradient is not finite in rows 2", "step 6: the gradient is not finite in rows 5",
    ]  # fmt: skip


def test_a_skipped_row_has_no_part_in_the_weights(make_trainer):
    """As if the optimizer had not been called: the step of Adam and its weight decay are left out too."""
    skipping = make_trainer(poisoned=[7], nonfinite_gradients="skip", weight_decay=0.1)
    skipping.train()
    shorter = make_trainer(poisoned=[7], nonfinite_gradients="stop", weight_decay=0.1)
    with pytest.raises(NerError):
        shorter.train()
    for (name, one), other in zip(skipping.model.named_parameters(), shorter.model.parameters(), strict=True):
        if "embed" not in name:
            assert torch.equal(one, other), name


def test_a_model_without_a_number_left_is_not_trained_for_ever(make_trainer):
    trainer = make_trainer(nonfinite_gradients="skip", max_steps=PATIENCE + 5)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(NerError, match=f"{PATIENCE - 1} steps before") as error:
        trainer.train()
    assert error.value.place == f"step {PATIENCE}"
    assert "skip" not in error.value.remedy, "it is set"
    assert trainer.gradients.skipped == PATIENCE - 1


@pytest.mark.parametrize("clip", [1.0, 0.0], ids=["clipped", "not clipped"])
def test_the_norm_is_computed_once_a_step(make_trainer, clip):
    trainer = make_trainer(max_steps=3, max_grad_norm=clip)
    with torch.profiler.profile() as seen:
        trainer.train()
    norms = sum(event.count for event in seen.key_averages() if event.key == "aten::linalg_vector_norm")
    assert norms == 3 * (1 + len(list(trainer.model.parameters())))


def test_a_gradient_whose_norm_overflows_stops_too(make_trainer):
    """All of its entries are finite, and clipped by an infinite norm they would be zero."""
    trainer = make_trainer()
    trainer.model.model.norm.weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    with pytest.raises(NerError) as error:
        trainer.train()
    assert error.value.place == "step 1"
