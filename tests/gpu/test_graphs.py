"""On a GPU a training by graphs is the one by kernels: QWEN_NER_GPU_TESTS=1 pytest tests/gpu."""

import pytest
import torch
from datasets import Dataset
from rows import EIGHT

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.training.batches.collate import choose_collator
from qwen_ner.training.batches.gpu.graphs import GraphedPasses
from qwen_ner.training.batches.gpu.varlen import has_kernel
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and QWEN_NER_GPU_TESTS=1")

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.mark.skipif(not (torch.cuda.is_available() and has_kernel()), reason="no kernel for this GPU")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_replayed_training_is_the_launched_one(
    tiny, tokenizer, tmp_path, monkeypatch, caplog, lora, accumulated, dropout
):
    rows = build_dataset(EIGHT * 4, Codec(CLUENER), tokenizer).to_list()[:-3]

    def trained(name):
        torch.manual_seed(5)  # of the adapter
        model = load_model(str(tiny), lora=lora and {**lora, "lora_dropout": dropout})
        args = NerTrainingArguments(
            output_dir=str(tmp_path / name), bf16=True, max_steps=16, per_device_train_batch_size=4, seed=3,
            gradient_accumulation_steps=accumulated, report_to="none", eval_strategy="no",
            save_strategy="no", load_best_model_at_end=False, disable_tqdm=True, learning_rate=1e-3,
        )  # fmt: skip
        trainer = NerTrainer(
            model=model, args=args, ner_config=NerConfig(CLUENER, "找出实体", 8, (2, 0)), processing_class=tokenizer,
            data_collator=choose_collator(model, 0), train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:2]),
        )  # fmt: skip
        replays = []

        class Counted(GraphedPasses):
            def _use_gradients(self):
                replays.append(1)
                super()._use_gradients()

        monkeypatch.setattr("qwen_ner.training.loop.trainer.GraphedPasses", Counted)
        torch.manual_seed(5)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return len(replays), losses, {n: w for n, w in model.named_parameters() if w.requires_grad}

    replays, losses, weights = trained("graphs")
    assert replays >= 8 * accumulated
    monkeypatch.setattr(GraphedPasses, "_record", lambda self, *args: None)
    none, wanted_losses, wanted = trained("kernels")
    assert none == 0
    assert losses == pytest.approx(wanted_losses, rel=1e-3)
    for name, weight in wanted.items():
        assert torch.equal(weights[name], weight), name
    assert not [record for record in caplog.records if "graph" in record.message]
