"""`checkpoint.json`: the checksums of a checkpoint's files, and the origin of its weights.

In: the folder of a checkpoint. Out: why a training cannot resume from it. Checkpoints of older versions have no such
file; of them only the form is checked. Does not know which checkpoint is wanted.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, TrainerState
from transformers.trainer_pt_utils import safe_globals

from ...contract import NerConfig
from ...entities import NerError, fingerprint
from ...files import write_json

if TYPE_CHECKING:
    from ..plan import TrainingPlan

MANIFEST = "checkpoint.json"

STATE = "trainer_state.json"

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
        **_prompt_of(config),
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


def _prompt_of(config: NerConfig) -> dict[str, Any]:
    return {"labels": list(config.labels.names), "system_prompt": config.codec().system_prompt}


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
    """The first file that is not as it was written, or cannot be what it should be; None if all are right."""
    if not checkpoint.is_dir():
        return "no such folder"
    try:
        return _changed_file(checkpoint) if (checkpoint / MANIFEST).exists() else _fault_of_form(checkpoint)
    except OSError as error:
        return f"it cannot be read ({error})"


def _changed_file(checkpoint: Path) -> str | None:
    try:
        files = _read_manifest(checkpoint)["files"]
    except (ValueError, RecursionError) as error:
        return f"{MANIFEST} is damaged ({error})"
    for name, checksum in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if _checksum(path) != checksum:
            return f"{name} has changed since it was written"
    added = (path.name for path in checkpoint.iterdir() if path.suffix in LOADED and path.name not in files)
    return next((f"{name} was not written with it" for name in added), None)


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    values = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    parts = [values.get(key) for key in ("origin", "files")] if isinstance(values, dict) else []
    if len(parts) != 2 or not all(isinstance(part, dict) for part in parts):
        raise ValueError("it has no origin or no files")
    if values.get("checksum") != _own_checksum(values["origin"], values["files"]):
        raise ValueError("its checksum differs")
    return values


def _fault_of_form(checkpoint: Path) -> str | None:
    """What shows damage where there are no checksums."""
    path = checkpoint / STATE
    try:
        if path.is_file():
            _check_state(path)
        shards = set[Path]()
        if (path := checkpoint / WEIGHTS[1]).is_file():
            shards = {checkpoint / name for name in json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()}
        for path in sorted({*shards, *checkpoint.glob("*.safetensors")}):
            with safe_open(path, framework="numpy"):  # compares the header with the length of the file
                pass
        for path in sorted(path for path in checkpoint.iterdir() if path.suffix in LOADED[1:]):
            with safe_globals():
                torch.load(path, map_location="meta", weights_only=True)  # a pickle can run code; this one only data
        NerConfig.load(checkpoint)
    except (SafetensorError, OSError, NerError) as error:
        return str(error) if isinstance(error, NerError) else f"{path.name} cannot be read ({error})"
    except Exception as error:  # torch.load has many, and a state of wrong types all those of Python
        return f"{path.name} is damaged ({type(error).__name__})"
    return None


def _check_state(path: Path) -> None:
    """Raise any error if the Trainer could not go on from this state."""
    state = TrainerState.load_from_json(str(path))
    numbers = (state.epoch, state.max_steps, state.logging_steps, state.eval_steps, state.save_steps, state.total_flos)
    optional = (state.best_metric, state.best_global_step)
    if not all(math.isfinite(value) for value in (*numbers, *(v for v in optional if v is not None))):
        raise ValueError
    if type(state.global_step) is not int or state.global_step < 1 or "TrainerControl" not in state.stateful_callbacks:
        raise ValueError
    Path(state.best_model_checkpoint or "")
    for entry in state.log_history:
        int(entry["step"])


def check_origin(checkpoint: Path, origin: dict[str, Any], *, beside: bool) -> str:
    """Raise `NerError` if the weights of `checkpoint` are not of this training; `beside`: it was found in output_dir.

    Returns what to warn of: what an older version did not store, and random numbers that begin anew; usually nothing.
    """
    warning = ""
    if (checkpoint / MANIFEST).exists():
        before = _read_manifest(checkpoint)["origin"]
        one, other = before.pop("processes", None), origin.get("processes")
        if one != other:
            warning = f"{checkpoint} is of {one} processes, these are {other}: they draw other random numbers"
    else:
        config = NerConfig.load(checkpoint)
        before = {"data_fingerprint": config.data_fingerprint, **_prompt_of(config)}
        warning = f"{checkpoint} has no {MANIFEST}: damage inside its files, and other base weights, go unnoticed"
    changed = {key: (before[key], origin[key]) for key in before if key in origin and before[key] != origin[key]}
    for key in ("validation fingerprint", "validation rows", "metric_for_best_model"):
        if None in changed.get(key, ()):
            del changed[key]
    if changed:
        raise NerError(
            "the training of this checkpoint differs from this one (then → now)",
            value="; ".join(f"{key} {_shown(old)} → {_shown(new)}" for key, (old, new) in changed.items()),
            place=str(checkpoint),
            remedy="train from the beginning with --resume_from_checkpoint none, which replaces what is in output_dir"
            + (", or choose another --output_dir" if beside else ""),
        )
    return warning


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
