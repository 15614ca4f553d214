"""`checkpoint.json`: the checksums of a checkpoint's files, and the origin of its weights.

In: the folder of a checkpoint. Out: why a training cannot resume from it. Does not know which checkpoint is wanted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...entities import NerError, fingerprint
from ...files import write_json
from ...hub.neutral import STATE
from ..plan import TrainingPlan

log = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")

MODEL_ONLY = "it has a model alone, without optimizer, as save_only_model: true leaves it"

NEEDED = {
    STATE: (STATE,),
    "weights": WEIGHTS,
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "learning rate schedule": ("scheduler.pt", "global_step*"),
    "random state": ("rng_state*.pth",),
}
"""What a training resumes from, and the files that hold it; DeepSpeed writes global_step*, FSDP the .bin."""

LOADED = (".safetensors", ".pt", ".pth", ".bin")
"""Suffixes of files that the Trainer would load if somebody put them there."""

FIXED = (
    *("learning_rate", "weight_decay", "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("seed", "data_seed", "train_sampling_strategy"),
)
"""Keys of a recipe that a resumed training could not follow: the optimizer's state brings its own values, and the order
of the rows continues in the middle of an epoch."""


def origin_of(plan: TrainingPlan) -> dict[str, Any]:
    """What must be the same for a training to resume: data, labels, prompt, base model, adapter, and `FIXED` keys.

    Validation rows and metric are those that the best score so far is compared with; None without evaluations.
    """
    args, config, splits = plan.recipe.training, plan.config, plan.splits
    evaluates = args.eval_strategy != "no"
    origin = {
        "data_fingerprint": config.data_fingerprint,
        "training rows": len(plan.fitting_rows),
        "tokens of the first rows": _tokens_fingerprint(plan.fitting_rows[:32]),
        "validation fingerprint": fingerprint(splits.validation) if evaluates else None,
        "validation rows": len(splits.validation) if evaluates else None,
        "metric_for_best_model": args.metric_for_best_model if evaluates else None,
        "labels": list(config.labels.names),
        "system_prompt": config.codec().system_prompt,
        "weights of the base": weights_fingerprint(plan.model),
        "adapter": plan.recipe.model.lora(),
        "processes": args.world_size,
        "rows per step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **{key: getattr(args, key) for key in FIXED},
    }
    plain: dict[str, Any] = json.loads(json.dumps(origin, default=str))
    return plain


def _tokens_fingerprint(rows: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits that change with the tokenizer and the chat template."""
    ids = [list(map(list, rows[key])) for key in ("prompt_ids", "answer_ids")]
    return hashlib.sha256(repr(ids).encode()).hexdigest()[:16]


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Sixteen hexadecimal digits of up to 64 numbers from each tensor of `model` but those of an adapter.

    Another model, and the same one trained further, have others; a copy in another folder has the same.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if "lora_" not in name:
            name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")  # as without an adapter
            some = weight.detach().flatten()[:: max(1, weight.numel() // 64)][:64].float().cpu().numpy()
            digest.update(repr((name, some.tolist())).encode())
    return digest.hexdigest()[:16]


def write_manifest(folder: Path, origin: dict[str, Any]) -> None:
    """Write `checkpoint.json` into `folder`, whose other files are complete."""
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {path.relative_to(folder).as_posix(): _checksum(path) for path in folder.rglob("*") if path.is_file()}
    write_json(folder / MANIFEST, {"origin": origin, "files": files, "checksum": _own_checksum(origin, files)})


def _own_checksum(origin: dict[str, Any], files: dict[str, str]) -> str:
    return f"{zlib.crc32(json.dumps([origin, files], sort_keys=True).encode()):08x}"


def _checksum(path: Path) -> str:
    """The CRC-32 of a file: it finds damage, at several GB a second; against forgery it is no help."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            crc = zlib.crc32(piece, crc)
    return f"{crc:08x}"


def fault_of(checkpoint: Path) -> str | None:
    """Why a training cannot resume from `checkpoint`, else None. Reads all of its files."""
    fault = damage_of(checkpoint)
    missing = [what for what, names in NEEDED.items() if not any(any(checkpoint.glob(name)) for name in names)]
    if not fault and missing == list(NEEDED)[2:]:
        return MODEL_ONLY
    return fault or (f"it has no {missing[0]}" if missing else None)


def damage_of(checkpoint: Path) -> str | None:
    """The first file that is not as it was written; None if all are."""
    if not (checkpoint / MANIFEST).exists():
        return f"it has no {MANIFEST}" if checkpoint.is_dir() else "no such folder"
    try:
        files = _read_manifest(checkpoint)["files"]
        for name, checksum in files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if _checksum(path) != checksum:
                return f"{name} has changed since it was written"
        added = (path.name for path in checkpoint.iterdir() if path.suffix in LOADED and path.name not in files)
        return next((f"{name} was not written with it" for name in added), None)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        return f"{MANIFEST} is damaged ({error})"
    except OSError as error:
        return f"it cannot be read ({error})"


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    if values["checksum"] != _own_checksum(values["origin"], values["files"]):
        raise ValueError("its checksum differs")
    return values


def check_origin(checkpoint: Path, origin: dict[str, Any], *, beside: bool) -> None:
    """Raise `NerError` if the weights of `checkpoint`, found in output_dir if `beside`, are not of this training."""
    before = _read_manifest(checkpoint)["origin"]
    changed = {key: (before.get(key), now) for key, now in origin.items() if before.get(key) != now}
    if processes := changed.pop("processes", None):
        log.warning("%s is of %s processes, these are %s: they draw other random numbers.", checkpoint, *processes)
    for key in ("validation fingerprint", "validation rows", "metric_for_best_model"):
        if None in changed.get(key, ()):
            del changed[key]
    if changed:
        what = "the training of this checkpoint differs from this one (then → now)"
        value = "; ".join(f"{key} {old!s:.60} → {new!s:.60}" for key, (old, new) in changed.items())
        remedy = "train from the beginning with --resume_from_checkpoint none, which replaces what is in output_dir"
        remedy += ", or choose another --output_dir" if beside else ""
        raise NerError(what, value=value, place=str(checkpoint), remedy=remedy)
