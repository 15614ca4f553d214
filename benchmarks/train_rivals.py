"""The rivals of train_speed.py: each trains the same model on the same rows and logs (seconds, loss, examples) a step.

Each returns the work of its last step: tokens computed, pairs attended, logits made. With a `folder` among their
options, static and TRL keep checkpoints there and go on from them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


def train_static(
    rival: str, model: Any, rows: list[Any], options: argparse.Namespace, log: list[Any]
) -> dict[str, float]:
    """The tutorial's loop but for one fault: it cuts prompts at 50 tokens, which removes their end; not here."""
    import torch

    width = max(191, max(len(row["prompt_ids"]) + len(row["answer_ids"]) for row in rows))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=options.learning_rate)
    first, kept = 0, folder_of(options) and Path(folder_of(options)) / "state.pt"
    if kept and kept.is_file():
        state = torch.load(kept, weights_only=True)
        first = state["step"]
        model.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
    for step in range(first, options.steps + 1):
        part = rows[step * options.batch : (step + 1) * options.batch]
        ids, mask, labels = [], [], []
        for row in part:
            whole = row["prompt_ids"] + row["answer_ids"]
            pad = width - len(whole)
            ids.append(whole + [0] * pad)
            mask.append([1] * len(whole) + [0] * pad)
            labels.append([-100] * len(row["prompt_ids"]) + row["answer_ids"] + [-100] * pad)
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            loss = model(**{name: torch.tensor(value, device=device) for name, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        log.append((time.perf_counter() - start, loss.item(), len(part)))
        if kept and (step + 1) % 10 == 0:
            kept.parent.mkdir(parents=True, exist_ok=True)
            state = {"step": step + 1, "model": {n: p.detach() for n, p in trained.items()}}
            torch.save({**state, "optimizer": optimizer.state_dict()}, kept.with_suffix(".new"))
            kept.with_suffix(".new").replace(kept)
        if enough(log, options):
            break
    return padded_work(options.batch, width)


def folder_of(options: argparse.Namespace) -> Any:
    return getattr(options, "folder", None)


def enough(log: list[Any], options: argparse.Namespace) -> bool:
    return sum(seconds for seconds, *_ in log[1:]) >= options.seconds


def padded_work(rows: int, width: int, logits: int | None = None) -> dict[str, float]:
    return {"tokens": rows * width, "pairs": rows * width * (width + 1) / 2, "logits": logits or rows * width}


def timed(trainer_class: type, log: list[Any], work: dict[str, float], kept_only: bool) -> type:
    """`trainer_class` that logs the seconds of each step with its loss, and the work of the last."""

    class Timed(trainer_class):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            labelled = int((inputs["labels"] != -100).sum())
            work.update(padded_work(*ids.shape, labelled if kept_only else None))
            if "own" in inputs:  # each example attends by itself, behind the prefix
                prefix = mask.shape[-1] - inputs["own"].shape[1]
                work["pairs"] = float(mask.sum()) * len(inputs["own"]) + prefix * (prefix + 1) / 2
            loss = super().training_step(model, inputs, *args, **kwargs)
            self._started = start
            self._loss = loss.item()
            # An example is a run of labels: a packed sequence does not hold exactly a batch of them.
            labelled_here = inputs["labels"] != -100
            self._examples = int((labelled_here[:, 1:] & ~labelled_here[:, :-1]).sum())
            return loss

    return Timed


def trainer_options(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    import torch

    return {
        "output_dir": folder,
        "max_steps": options.steps + 1,
        "per_device_train_batch_size": options.batch,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": options.scheduler,
        "warmup_steps": options.warmup_steps,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "bf16": options.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "steps" if folder_of(options) else "no",
        "save_steps": 20,
        "save_total_limit": 1,
        "report_to": "none",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def clock(log: list[Any], options: argparse.Namespace) -> Any:
    """A callback that closes each step's time behind the optimizer."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        trainer: Any = None

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            import torch

            if torch.cuda.is_available():  # the loss was read before the optimizer's step
                torch.cuda.synchronize()
            log.append((time.perf_counter() - self.trainer._started, self.trainer._loss, self.trainer._examples))
            control.should_training_stop |= enough(log, options)

    return Clock()


def run_trainer(trainer: Any, stop: Any) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    stop.trainer = trainer
    trainer.add_callback(stop)
    folder = trainer.args.output_dir
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if Path(folder).is_dir() else None)


def train_dynamic(
    rival: str, model: Any, rows: list[Any], options: argparse.Namespace, log: list[Any]
) -> dict[str, float]:
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from qwen_ner.inference.loading import load_tokenizer

    work: dict[str, float] = {}
    whole = [
        {
            "input_ids": row["prompt_ids"] + row["answer_ids"],
            "attention_mask": [1] * (len(row["prompt_ids"]) + len(row["answer_ids"])),
            "labels": [-100] * len(row["prompt_ids"]) + row["answer_ids"],
        }
        for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = timed(Trainer, log, work, kept_only=False)(
            model=model,
            args=TrainingArguments(**trainer_options(options, folder)),
            train_dataset=Dataset.from_list(whole),
            data_collator=DataCollatorForSeq2Seq(load_tokenizer(options.model)),
        )
        run_trainer(trainer, clock(log, options))
    return work


def train_trl(rival: str, model: Any, rows: list[Any], options: argparse.Namespace, log: list[Any]) -> dict[str, float]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from qwen_ner.inference.loading import load_tokenizer

    work: dict[str, float] = {}
    whole = [
        {
            "input_ids": row["prompt_ids"] + row["answer_ids"],
            "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["answer_ids"]),
        }
        for row in rows
    ]
    special: dict[str, Any] = {"max_length": None}
    if rival.startswith("trl-padding-free"):
        special["padding_free"] = True
    if rival == "trl-packed":
        mean = statistics.mean(len(row["input_ids"]) for row in whole)
        # One packed sequence a step, as long as the rows of the others' batch.
        special = {"packing": True, "max_length": round(mean * options.batch), "per_device_train_batch_size": 1}
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder_of(options) or temporary
        trainer = timed(SFTTrainer, log, work, kept_only=True)(
            model=model,
            args=SFTConfig(
                **{
                    **trainer_options(options, folder),
                    "remove_unused_columns": True,
                    "completion_only_loss": True,
                    "use_liger_kernel": rival.endswith("-liger"),
                    **special,
                }
            ),
            train_dataset=Dataset.from_list(whole),
            processing_class=load_tokenizer(options.model),
        )
        run_trainer(trainer, clock(log, options))
    return work


def train_ours(
    rival: str, model: Any, rows: list[Any], options: argparse.Namespace, log: list[Any]
) -> dict[str, float]:
    from datasets import Dataset

    from qwen_ner.contract import NerConfig
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.loading import load_tokenizer
    from qwen_ner.training.batches.collate import choose_collator
    from qwen_ner.training.batches.reduced_head import head_over, tokens_of
    from qwen_ner.training.loop.trainer import NerTrainer
    from qwen_ner.training.recipe import NerTrainingArguments

    work: dict[str, float] = {}
    tokenizer, dataset = load_tokenizer(options.model), Dataset.from_list(rows)
    with head_over(tokens_of(dataset), model) as width:
        share = width / model.config.get_text_config().vocab_size
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"eval_strategy": "no", "load_best_model_at_end": False}
        trainer = timed(NerTrainer, log, work, kept_only=True)(
            model=model,
            args=NerTrainingArguments(**{**trainer_options(options, folder), **chosen}),
            ner_config=NerConfig(CLUENER, "", 128, (tokenizer.eos_token_id,)),
            processing_class=tokenizer,
            train_dataset=dataset,
            data_collator=choose_collator(model, tokenizer.pad_token_id),
        )
        run_trainer(trainer, clock(log, options))
    return {**work, "logits": work["logits"] * share}
