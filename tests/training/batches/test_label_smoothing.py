"""Label smoothing is a step transform: torch's own formula on every layout of a batch, beside every head."""

from types import SimpleNamespace

import pytest
import torch
from rows import EIGHT
from torch.nn.functional import cross_entropy

from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import NerError
from qwen_ner.training.batches.collate import PaddedCollator, choose_collator
from qwen_ner.training.batches.reduced_head import tokens_of
from qwen_ner.training.batches.transforms import make_step
from qwen_ner.training.model import load_model

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}


def smoothing(factor):
    return SimpleNamespace(label_smoothing_factor=factor)


@pytest.fixture(scope="module")
def rows(codec, tokenizer):
    return build_dataset(EIGHT, codec, tokenizer)


@pytest.mark.parametrize("names", [["label_smoothing"], ["reduced_head", "label_smoothing"]], ids=["whole", "reduced"])
@pytest.mark.parametrize("shared", [False, True], ids=["padded", "prefix shared"])
def test_the_loss_is_that_of_torch(tiny, rows, shared, names):
    model = load_model(str(tiny), lora=LORA).train()
    batch = (choose_collator(model, 0) if shared else PaddedCollator(0))(rows.to_list())
    targets = batch["shift_labels"].flatten()
    with make_step(names[:-1], smoothing(0)).around(model, rows):
        out = model(**batch)
    logits = out.logits.flatten(0, -2)
    if "reduced_head" in names:
        targets = torch.where(targets == -100, -100, torch.searchsorted(tokens_of(rows), targets.clamp_min(0)))
    expected = cross_entropy(logits, targets, label_smoothing=0.1)
    with make_step(names, smoothing(0.1)).around(model, rows):
        found = model(**batch).loss
        asked = model(**batch, num_items_in_batch=torch.tensor(7)).loss
        evaluated = model.eval()(**batch).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.item() != pytest.approx(out.loss.item(), rel=1e-5)
    assert asked.item() == pytest.approx(found.item() * int((targets != -100).sum()) / 7, rel=1e-5)
    assert evaluated.item() == pytest.approx(model(**batch).loss.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("names", "factor", "place", "remedy"),
    [(["label_smothing"], 0, "step_transforms", "label_smoothing"), ([], 0.1, "label_smoothing_factor", "step_transforms")],
)  # fmt: skip
def test_a_lever_that_would_do_nothing_is_refused(names, factor, place, remedy):
    with pytest.raises(NerError) as error:
        make_step(names, smoothing(factor))
    assert error.value.place == place
    assert remedy in error.value.remedy
