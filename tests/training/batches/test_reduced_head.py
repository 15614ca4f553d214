"""In training a frozen head is over the tokens of the rows; everywhere else it is as it was."""

import pytest
import torch
from datasets import Dataset
from rows import EIGHT
from torch.nn.functional import cross_entropy

from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.training.batches.collate import PaddedCollator, choose_collator
from qwen_ner.training.batches.reduced_head import head_over, tokens_of
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}


@pytest.fixture
def rows(codec, tokenizer):
    return build_dataset(EIGHT, codec, tokenizer)


@pytest.fixture
def model(tiny):
    """With an adapter that does something, so that each of its weights has a gradient."""
    model = load_model(str(tiny), lora=LORA)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("shared", [False, True], ids=["padded", "prefix shared"])
def test_loss_and_gradient_are_of_the_whole_head_without_the_other_tokens(model, rows, shared):
    tokens = tokens_of(rows)
    batch = (choose_collator(model, 0) if shared else PaddedCollator(0))(rows.to_list())
    model.train()
    logits = model(**batch).logits.flatten(0, -2)
    others = torch.ones(logits.shape[-1], dtype=torch.bool)
    others[tokens] = False
    assert others.sum() > 20
    labels = batch["shift_labels"].flatten()
    expected = cross_entropy(logits.masked_fill(others, -torch.inf), labels)
    with head_over(tokens, model) as width:
        out = model(**batch)
        asked = model(**batch, num_items_in_batch=torch.tensor(7)).loss
    assert width == out.logits.shape[-1] == len(tokens)
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert asked.item() == pytest.approx(expected.item() * int((labels != -100).sum()) / 7, rel=1e-6)
    found, whole = gradients(model, out.loss), gradients(model, expected)
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_labels_may_come_unshifted_and_with_gaps(model, rows):
    batch = PaddedCollator(0)(rows.to_list())
    model.train()
    with head_over(tokens_of(rows), model):
        expected = model(**batch).loss
        stock = {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
        assert model(**stock).loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_outside_of_training_and_afterwards_the_head_is_whole(model, rows):
    batch, names = PaddedCollator(0)(rows.to_list()), set(model.state_dict())
    before = model.eval()(**batch)
    with head_over(tokens_of(rows), model):
        inside = model.eval()(**batch)
        assert model.train()(**batch).logits.shape[-1] < before.logits.shape[-1]
        assert set(model.state_dict()) == names
    after = model.train()(**batch)
    for out in (inside, after):
        torch.testing.assert_close(out.logits, before.logits)
        assert out.loss.item() == pytest.approx(before.loss.item(), rel=1e-6)


def test_a_head_that_is_trained_stays_whole(tiny, rows):
    batch = PaddedCollator(0)(rows.to_list())
    for lora in (None, {**LORA, "modules_to_save": ["lm_head"]}):
        model = load_model(str(tiny), lora=lora).train()
        with head_over(tokens_of(rows), model) as width:
            assert model(**batch).logits.shape[-1] == width == model.config.vocab_size


def test_a_label_of_no_row_is_refused(model, rows):
    batch = PaddedCollator(0)(rows.to_list())
    model.train()
    with head_over(torch.arange(3), model), pytest.raises(IndexError):
        model(**batch)


def test_tokens_are_those_of_the_rows_selected():
    rows = Dataset.from_dict({"row": [0, 1, 2], "prompt_ids": [[9, 4], [4], [7]], "answer_ids": [[5], [6], [8, 8]]})
    assert tokens_of(rows).tolist() == [4, 5, 6, 7, 8, 9]
    assert tokens_of(rows.select([2])).tolist() == [7, 8]


def test_a_training_evaluates_with_the_whole_head(model, rows, tokenizer, codec, tmp_path):
    args = NerTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=2, per_device_train_batch_size=8, eval_strategy="steps",
        eval_steps=2, save_strategy="no", load_best_model_at_end=False, metric_for_best_model="loss", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = NerTrainer(
        model=model, args=args, ner_config=NerConfig(CLUENER, codec.system_prompt, 8, (2, 0)),
        processing_class=tokenizer, data_collator=PaddedCollator(0), train_dataset=rows, eval_dataset=rows,
    )  # fmt: skip
    trainer.train()
    within = next(line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line)
    with torch.no_grad():
        whole = model.eval()(**PaddedCollator(0)(rows.to_list())).loss.item()
    assert within == pytest.approx(whole, rel=1e-5)
