import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM

from qwen_ner.data.tokenize import build_dataset
from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.training.batches.collate import (
    IGNORED,
    PaddedCollator,
    PrefixSharedCollator,
    RowCollator,
    choose_collator,
)


@pytest.fixture(scope="module")
def rows(codec, tokenizer):
    return build_dataset(EIGHT, codec, tokenizer).to_list()


def test_the_tensors_of_two_rows():
    batch = PaddedCollator(0)([{"prompt_ids": [1, 2, 3], "answer_ids": [4, 9]}, {"prompt_ids": [1], "answer_ids": [9]}])
    ignored = IGNORED
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 9], [1, 9, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[ignored, ignored, ignored, 4, 9], [ignored, 9, ignored, ignored, ignored]]
    assert batch["logits_to_keep"].tolist() == [0, 2, 3]
    assert batch["shift_labels"].tolist() == [[ignored, 4, 9], [9, ignored, ignored]]


@pytest.mark.parametrize("collate", [PaddedCollator(0), PrefixSharedCollator(), PrefixSharedCollator(padded=True)])
def test_a_row_that_is_not_counted_has_no_label_and_keeps_its_tokens(collate):
    first, second = {"prompt_ids": [1, 2], "answer_ids": [3, 9]}, {"prompt_ids": [1, 5], "answer_ids": [6, 7, 9]}
    batch, whole = collate([first, second | {"counted": False}]), collate([first, second])
    for labels, supervised in ((batch, [3, 9]), (whole, [3, 6, 7, 9, 9])):
        assert sorted(labels["labels"][labels["labels"] != IGNORED].tolist()) == supervised
        assert sorted(labels["shift_labels"][labels["shift_labels"] != IGNORED].tolist()) == supervised
    assert torch.equal(batch["input_ids"], whole["input_ids"])


def test_the_loss_is_that_of_all_logits_and_of_the_rows_one_by_one(tiny, rows):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    batch = PaddedCollator(0)(rows)
    loss = model(**batch).loss
    plain = model(**{k: batch[k] for k in ("input_ids", "attention_mask", "labels")}).loss
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    losses = [(model(**PaddedCollator(0)([row])).loss * len(row["answer_ids"])) for row in rows]
    torch.testing.assert_close(loss, sum(losses) / sum(len(row["answer_ids"]) for row in rows), rtol=1e-6, atol=0)


def test_a_batch_carries_its_rows_beside_what_the_loss_needs(rows):
    collate = PaddedCollator(0)
    batch = RowCollator(collate)(rows[2:5])
    assert next(iter(batch)) == "row", "the evaluation loop takes the batch size from the first tensor"
    assert batch["row"].tolist() == [2, 3, 4]
    assert batch["rows"].rows == rows[2:5]
    assert all(torch.equal(batch[name], tensor) for name, tensor in collate(rows[2:5]).items())


def test_cudnn_attention_is_off_for_packs_and_for_decoding(tiny):
    """It plans for each new shape, which takes longer than a step; every pack and every step of decoding is one."""
    model = AutoModelForCausalLM.from_pretrained(tiny)
    for use in (
        lambda: choose_collator(model, 0),
        lambda: TorchBackend(model, end_token_ids=[2], pad_token_id=0).complete([[5, 6]], 1),
    ):
        torch.backends.cuda.enable_cudnn_sdp(True)
        use()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
