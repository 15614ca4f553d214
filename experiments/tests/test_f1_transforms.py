"""The gradients of FGM and R-Drop are those of their formulas, whatever the layout of a batch and the head."""

from types import SimpleNamespace

import pytest
import torch
from f1_transforms import FGM, RDrop
from rows import EIGHT
from torch.nn.functional import cross_entropy

from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.inference.backends.prefix_cache import shared_prefix
from qwen_ner.training.batches.collate import PaddedCollator, choose_collator
from qwen_ner.training.batches.reduced_head import tokens_of
from qwen_ner.training.batches.step import Step
from qwen_ner.training.batches.transforms import make_step
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
ARGS = SimpleNamespace(label_smoothing_factor=0)
layouts = pytest.mark.parametrize("shared", [False, True], ids=["padded", "prefix shared"])
heads = pytest.mark.parametrize("head", [[], ["reduced_head"]], ids=["whole", "reduced"])


@pytest.fixture(scope="module")
def rows(codec, tokenizer):
    return build_dataset(EIGHT, codec, tokenizer)


def model_of(tiny, dropout=0.0):
    """A model whose adapter already does something, the same each time."""
    torch.manual_seed(0)
    model = load_model(str(tiny), lora={**LORA, "lora_dropout": dropout}).train()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def gradients(model, rows, head, shared, *levers, some=slice(None), seed=1):
    """Loss and gradients by name of one micro-batch of `rows`, some of which may be meant."""
    batch = (choose_collator(model, 0) if shared else PaddedCollator(0))(rows.to_list()[some])
    step = Step([*make_step(head, ARGS).transforms, *levers])
    count = (batch["shift_labels"] != -100).sum()

    def run():
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        return loss.detach()

    torch.manual_seed(seed)
    with step.around(model, rows):
        loss = step(model, run)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return loss, found


def row_losses(model, embedded, row, head, rows):
    """Cross-entropy of each token of a row's answer, the row alone, from embeddings (tokens, hidden)."""
    answer = torch.tensor(row["answer_ids"])
    logits = model(inputs_embeds=embedded[None]).logits[0, -len(answer) - 1 : -1]
    if head:
        seen = tokens_of(rows)
        logits, answer = logits[:, seen], torch.searchsorted(seen, answer)
    return cross_entropy(logits, answer, reduction="sum")


def by_hand(model, rows, head, epsilon):
    """What FGM computes, row after row: behind what all prompts begin with each is moved by `epsilon` along its own
    gradient, and the mean of both losses goes backward."""
    model.eval()  # the whole head; there is no dropout
    embed, number = model.get_input_embeddings(), sum(len(row["answer_ids"]) for row in rows)
    prefix, total = len(shared_prefix([row["prompt_ids"] for row in rows])), torch.tensor(0.0)
    for row in rows:
        embedded = embed(torch.tensor(row["prompt_ids"] + row["answer_ids"])).detach().requires_grad_()
        (slope,) = torch.autograd.grad(row_losses(model, embedded, row, head, rows), embedded)
        slope = slope * (torch.arange(len(slope)) >= prefix)[:, None]
        moved = embedded.detach() + epsilon * slope / slope.norm()
        total = total + (row_losses(model, embedded, row, head, rows) + row_losses(model, moved, row, head, rows)) / 2
    (total / number).backward()
    return (total / number).detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found, expected, tolerance=1e-5):
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(one.abs().max()) for one in expected[1].values())
    assert max(float((found[1][name] - one).abs().max()) for name, one in expected[1].items()) < tolerance * largest


def assert_equal(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][name], one) for name, one in expected[1].items())


@layouts
@heads
def test_fgm_is_what_it_is_by_hand_row_after_row(tiny, rows, head, shared):
    found = gradients(model_of(tiny), rows, head, shared, FGM(ARGS, 0.3))
    plain = gradients(model_of(tiny), rows, head, shared)
    assert found[0] > 1.0005 * plain[0], "so small a step would prove nothing"
    assert_close(found, by_hand(model_of(tiny), rows, head, 0.3), 1e-4)


@layouts
@pytest.mark.parametrize(
    "lever", [FGM(ARGS, 0.0), RDrop(ARGS, 0.0), RDrop(ARGS, 4.0)], ids=["fgm 0", "rdrop 0", "no dropout"]
)
def test_a_lever_that_adds_nothing_leaves_the_gradient_bit_for_bit(tiny, rows, shared, lever):
    head = ["reduced_head"]
    assert_equal(gradients(model_of(tiny), rows, head, shared, lever), gradients(model_of(tiny), rows, head, shared))


def test_fgm_of_a_batch_is_the_sum_over_its_parts(tiny, rows):
    """One row is a batch that shares all of its prompt but a token; it is moved as in a batch of eight."""
    whole = gradients(model_of(tiny), rows, [], True, FGM(ARGS, 0.3))
    parts = [gradients(model_of(tiny), rows, [], True, FGM(ARGS, 0.3), some=slice(n, n + 1)) for n in range(len(rows))]
    weights = [len(row["answer_ids"]) for row in rows]
    added = [
        sum(weight * of(part) for weight, part in zip(weights, parts, strict=True)) / sum(weights)
        for of in (lambda part: part[0], *(lambda part, name=name: part[1][name] for name in whole[1]))
    ]
    assert_close(whole, (added[0], dict(zip(whole[1], added[1:], strict=True))), 1e-4)


@layouts
@heads
def test_rdrop_is_half_the_paper_s_loss(tiny, rows, head, shared):
    """-log p1 - log p2 + α/2 · (KL(p1 ‖ p2) + KL(p2 ‖ p1)), of passes drawn one after the other; evaluation has one."""
    alpha, model = 4.0, model_of(tiny, dropout=0.2)
    found = gradients(model, rows, head, shared, RDrop(ARGS, alpha), seed=5)
    batch = (choose_collator(model, 0) if shared else PaddedCollator(0))(rows.to_list())
    torch.manual_seed(5)
    with make_step(head, ARGS).around(model, rows):
        passes = [model(**batch) for _ in range(2)]
    told = batch["shift_labels"] != -100
    one, two = (made.logits[told].log_softmax(-1) for made in passes)
    kl = [torch.nn.functional.kl_div(a, b, log_target=True, reduction="sum") for a, b in ((one, two), (two, one))]
    assert sum(kl) > 0.01 * told.sum()
    loss = (passes[0].loss + passes[1].loss + alpha / 2 * sum(kl) / told.sum()) / 2
    loss.backward()
    assert_close(found, (loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}), 1e-4)


@pytest.mark.parametrize("lever", [FGM(ARGS, 0.3), RDrop(ARGS, 4.0)], ids=["fgm", "rdrop"])
def test_a_lever_trains_in_parts_and_in_steps_of_several_batches(tiny, rows, codec, tokenizer, tmp_path, lever):
    """Eight rows at once and four times two are the same step; behind one in bfloat16, nothing else is."""

    def weights(size, bf16=False):
        model = model_of(tiny)
        args = NerTrainingArguments(
            output_dir=str(tmp_path / str(size)), use_cpu=True, optim="sgd", learning_rate=0.1, max_grad_norm=0.0,
            max_steps=3, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, eval_strategy="no",
            save_strategy="no", load_best_model_at_end=False, report_to="none", disable_tqdm=True, seed=3, bf16=bf16,
        )  # fmt: skip
        trainer = NerTrainer(
            model=model, args=args, ner_config=NerConfig(CLUENER, codec.system_prompt, 16, (2, 0)),
            processing_class=tokenizer, data_collator=choose_collator(model, 0), train_dataset=rows,
        )  # fmt: skip
        trainer.step.transforms.append(lever)
        trainer.train()
        return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}

    near = weights(8, bf16=True)
    assert not torch.is_autocast_enabled("cpu")
    whole, parts, before = (
        weights(8),
        weights(2),
        {name: weight.detach() for name, weight in model_of(tiny).named_parameters()},
    )
    assert max(float((whole[name] - before[name]).abs().max()) for name in whole) > 1e-3
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-5
    assert max(float((whole[name] - near[name]).abs().max()) for name in whole) < 1e-2
