"""Launched by the tests beside it: trains small cases in one process group and writes what each gave.

    trains.py MODEL OUT [CASE …]

Each step is on eight rows, whatever the number of ranks; the rows divide neither into steps nor into batches of the
evaluation. The first rank writes OUT/CASE.json and OUT/CASE.safetensors.
"""

import json
import sys
from pathlib import Path

from rows import EIGHT
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
from transformers import set_seed

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.inference.loading import load_tokenizer
from qwen_ner.training.batches.collate import PaddedCollator, choose_collator
from qwen_ner.training.loop.metrics import EntityMetrics
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments

TRAIN = [*EIGHT, *EIGHT[:5]]
EVALUATED = EIGHT[:7]
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
COMPRESSED = "compressed_full"
CASES = {
    "padded_full": (False, None),
    "padded_lora": (False, LORA),
    "shared_full": (True, None),
    "shared_lora": (True, LORA),
    COMPRESSED: (True, None),
}


def train(name: str, model_folder: str, out: Path) -> None:
    shared, lora = CASES[name]
    args = NerTrainingArguments(
        output_dir=str(out / "run"), use_cpu=True, learning_rate=2e-2 if lora else 1e-2, adam_epsilon=1e-8 if lora else 1e-3,
        lr_scheduler_type="constant", num_train_epochs=9, gradient_accumulation_steps=2, per_device_eval_batch_size=2,
        logging_steps=1, eval_strategy="no", save_strategy="no", load_best_model_at_end=False, disable_tqdm=True,
        report_to="none", seed=3, ddp_bf16_gradients=name == COMPRESSED,
    )  # fmt: skip
    args.per_device_train_batch_size = 4 // args.world_size
    set_seed(args.seed)
    tokenizer, codec = load_tokenizer(model_folder), Codec(CLUENER, "找出实体")
    model = load_model(model_folder, lora=lora).double()  # in float32 Adam makes whole steps of what is rounded
    with args.main_process_first():
        rows, evaluated = build_dataset(TRAIN, codec, tokenizer), build_dataset(EVALUATED, codec, tokenizer)
    pad = tokenizer.pad_token_id
    trainer = NerTrainer(
        model=model, args=args, ner_config=NerConfig(CLUENER, codec.system_prompt, 64, (2, 0)),
        processing_class=tokenizer, data_collator=choose_collator(model, pad) if shared else PaddedCollator(pad),
        train_dataset=rows, eval_dataset=evaluated, compute_metrics=EntityMetrics(EVALUATED, codec, tokenizer, (2, 0)),
    )  # fmt: skip
    trainer.train()
    prediction = trainer.predict(evaluated)
    if not trainer.is_world_process_zero():
        return
    written = [[token for token in ids if token != -100] for ids in prediction.predictions.tolist()]
    (out / f"{name}.json").write_text(json.dumps({
        "ranks": args.world_size,
        "steps": trainer.state.global_step,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "norms": [entry["grad_norm"] for entry in trainer.state.log_history if "loss" in entry],
        "metrics": {k: v for k, v in prediction.metrics.items() if not k.endswith(("loss", "runtime", "second", "time"))},
        "written": sorted(zip(prediction.label_ids.tolist(), written, strict=True)),
    }, ensure_ascii=False))  # fmt: skip
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    save_file(weights, out / f"{name}.safetensors")


if __name__ == "__main__":
    # torch compresses gradients on GPUs only, and gloo can do it too.
    DistributedDataParallel._check_comm_hook = lambda self, hook: None  # type: ignore[method-assign]
    folder, out = sys.argv[1], Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for case in sys.argv[3:] or CASES:
        train(case, folder, out)
