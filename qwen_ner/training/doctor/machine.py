"""What a training needs of the machine, and whether it is there: devices, disk, accounts.

In: a `TrainingPlan`. Out: a `Finding` per check. Logs in nowhere.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import constants, get_token
from safetensors import SafetensorError, safe_open
from transformers.integrations import INTEGRATION_TO_CALLBACK

from ...columns import join_names
from ...data.datasets import NAMED
from ...data.formats.errors import count
from ...entities import NerError
from ...inference.hub_download import MODELSCOPE, base_folder
from ..arguments import PATIENT_STEPS, emulates_bf16
from ..batches.collate import PrefixSharedCollator, base_of, not_shareable
from ..finding import Finding, fail, ok, warn
from ..launch import check_launch
from ..new_recipe import copies_pay
from ..plan import TrainingPlan
from ..preparation import HELD_OUT, HELD_OUT_SHARE
from . import costs

FEW_STEPS = 10

FEW_ROWS = 30
"""With fewer validation rows, chance chooses the checkpoint: each is worth more than 3 % of the score."""

TOY = 100_000_000
"""Below this many parameters a model is one for trying things out: what pays with few rows was measured on a 0.5B."""


def epochs_of(rows: int) -> float:
    """The epochs that pay with so few rows.

    >>> epochs_of(200), epochs_of(500)
    (10, 5.0)
    """
    return min(10, 2_500 / rows)


def check_model(plan: TrainingPlan) -> Finding:
    """The weights are in the folder, or already downloaded."""
    base = base_of(plan.model)
    every, trained = (number / 1e6 for number in costs.parameters(plan.model))
    found = f"{type(base).__name__}, {every:,.1f} million parameters, {trained:,.1f} million of them trained"
    name, files = plan.recipe.model.model_name_or_path, ("model.safetensors", "model.safetensors.index.json")
    if Path(name).is_dir():
        if not any((Path(name) / file).is_file() for file in files):
            return fail(f"{found}; {name} has no weights", "put model.safetensors beside config.json")
        for path in sorted(Path(name).glob("model*.safetensors")):
            try:
                with safe_open(path, framework="numpy"):  # compares the header with the length of the file
                    pass
            except (OSError, SafetensorError) as error:
                return fail(f"{found}; {path} cannot be read ({error})", "put the whole file there again")
    elif name != "tiny":
        folder = base_folder(name, plan.recipe.model.model_revision, weights=False)
        if not any((folder / file).is_file() for file in files):
            there = name.startswith(MODELSCOPE)
            command = f"modelscope download --model {name.removeprefix(MODELSCOPE)}" if there else f"hf download {name}"
            remedy = f"download them before GPUs wait for them: {command}"
            return warn(f"{found}; the weights are not in the cache", remedy)
    return ok(found)


def check_batches(plan: TrainingPlan) -> Finding:
    if reason := not_shareable(plan.model):
        return ok(f"padded, without prefix sharing: {reason}")
    return ok("packed; what all prompts begin with is computed once per batch")


def check_steps(plan: TrainingPlan) -> Finding:
    args, rows, processes = plan.recipe.training, plan.fitting_rows, plan.launch.num_processes
    total, an_epoch = costs.count_steps(args, len(rows), processes)
    batch, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    of = f"{batch} rows × {accumulation} accumulated × {processes} process{'es'[: 2 * (processes > 1)]}"
    lengths, answers = list(rows["length"]), sum(map(len, rows["answer_ids"]))
    tokens = sum(lengths)
    if isinstance(plan.collator, PrefixSharedCollator):
        tokens = costs.computed_tokens(rows["prompt_ids"], lengths, batch)
    found = (
        f"{total:,} steps of {of}, {an_epoch:,} per epoch; {tokens:,} tokens to compute per epoch "
        f"({sum(lengths):,} row by row), {answers:,} of them supervised"
    )
    remedy = "\n".join(_doubts(plan, total, an_epoch))
    return warn(found, remedy) if remedy else ok(found)


def _doubts(plan: TrainingPlan, total: int, an_epoch: int) -> Iterator[str]:
    """What speaks against so many steps, and against what chooses among them, with what to change."""
    args, rows, validation = plan.recipe.training, len(plan.fitting_rows), len(plan.splits.validation)
    paid = epochs_of(rows)
    if total < FEW_STEPS:
        why = f"only {total} optimizer steps will hardly change the model"
        yield f"{why}: train longer (num_train_epochs, max_steps) or use a smaller batch"
    elif paid >= 2 and total < 0.8 * paid * an_epoch:
        why = f"{count(rows, 'row')} of training are few to be seen {total / an_epoch:.3g} times"
        yield f"{why}: raise num_train_epochs to {math.ceil(paid)} (max_steps to {math.ceil(paid * an_epoch)})"
    json, real = plan.recipe.data.target == "json", costs.parameters(plan.model)[0] > TOY
    if json and real and copies_pay(plan.splits.annotated, plan.codec.labels.names):
        yield "with few rows, marks in a copy of the text gave 4 to 20 points more f1: set target: inline"
    patience, every = args.early_stopping_patience, an_epoch
    if args.eval_strategy == "steps" and args.eval_steps:
        every = math.ceil(args.eval_steps * (total if args.eval_steps < 1 else 1))
    if patience is not None and patience * every < min(PATIENT_STEPS, total):
        of = f"{count(patience, 'evaluation')}, which is only {count(patience * every, 'step')}"
        enough = math.ceil(PATIENT_STEPS / every)
        yield f"early stopping waits for {of}: raise early_stopping_patience to {enough}"
    if validation < FEW_ROWS and args.eval_strategy != "no":
        few = count(validation, f"{plan.splits.validation_name} row")
        yield f"with {few} it is chance that chooses the checkpoint: {' and '.join(_more_validation(plan))}"


def _more_validation(plan: TrainingPlan) -> Iterator[str]:
    """What keeps the validation rows below `FEW_ROWS`, with what to change."""
    data, splits = plan.recipe.data, plan.splits
    limited = data.max_eval_samples is not None and data.max_eval_samples < FEW_ROWS
    held_out, fewer = splits.validation_name == HELD_OUT, data.validation_rows < FEW_ROWS
    tenth = held_out and data.dataset not in NAMED and int(HELD_OUT_SHARE * len(splits.annotated)) < FEW_ROWS
    if limited:
        yield f"raise max_eval_samples to {FEW_ROWS}"
    if held_out and fewer and not tenth:
        yield f"raise validation_rows to {FEW_ROWS}"
    elif tenth or not limited:
        rows = f", or {math.ceil(FEW_ROWS / HELD_OUT_SHARE)} rows of train, of which 10 % are held out"
        rows += f" with validation_rows: {FEW_ROWS}" if fewer else ""
        yield f"give the data set a dev split of {FEW_ROWS} rows or more{rows if tenth else ''}"


def uses_cpu(plan: TrainingPlan) -> bool:
    """Whether the recipe asks for the CPU; without a GPU it may have been read as if it did."""
    return bool(plan.recipe.values.get("use_cpu"))


def check_disk(plan: TrainingPlan) -> Finding:
    """The checkpoints that are kept at the same time fit on the disk, and the final model too."""
    args, lora = plan.recipe.training, plan.recipe.model.lora_r is not None
    every, trained = costs.parameters(plan.model)
    kept = costs.kept_checkpoints(args, *costs.count_steps(args, len(plan.examples), plan.launch.num_processes))
    one = costs.checkpoint_bytes(every, trained, lora, with_optimizer=not args.save_only_model)
    final = costs.checkpoint_bytes(every, trained, lora, with_optimizer=False)
    output = Path(args.output_dir)
    there = len(list(output.glob("checkpoint-*")))  # these are deleted as new ones are written
    new = max(kept - there, min(kept, 1))
    place = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        return fail(f"{output} cannot be written", "choose another --output_dir")
    free, need = shutil.disk_usage(place).free, new * one + final
    checkpoints = f"{count(new, 'checkpoint')} of {costs.format_size(one)}"
    found = (
        f"{checkpoints} and the model need {costs.format_size(need)}; {costs.format_size(free)} are free under {output}"
    )
    if free >= need:
        return ok(found)
    remedy = "free space, choose another --output_dir, lower save_total_limit, or set save_only_model: true"
    return (fail if free < min(new, 1) * one + final else warn)(found, remedy)


def check_driver(plan: TrainingPlan) -> Finding:
    """The driver of the GPUs is new enough for the CUDA that torch is built for."""
    try:
        said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        said = ""
    found = compare_driver(said, torch.version.cuda)
    return ok(found.message) if uses_cpu(plan) else found


def compare_driver(nvidia_smi: str, built: str | None) -> Finding:
    """What `nvidia-smi` prints, empty if there is none, against `torch.version.cuda`, None for a torch without CUDA.

    A driver runs what is built for any release of its own major version of CUDA.
    """
    torch_here = f"torch {torch.__version__.partition('+')[0]} built for {f'CUDA {built}' if built else 'no CUDA'}"
    driver, newest = (re.search(rf"{of} Version\s*:\s*(\d[\d.]*)", nvidia_smi) for of in ("Driver", r"CUDA(?: \w+)?"))
    if not driver or not newest:
        return ok(f"{torch_here}; no NVIDIA driver here")
    found = f"driver {driver[1]} (CUDA {newest[1]}), {torch_here}"
    if not built:
        return warn(found, "it cannot use the GPU: install a torch with CUDA, see pytorch.org/get-started")
    needed, has = (int(version.partition(".")[0]) for version in (built, newest[1]))
    if needed <= has:
        return ok(found)
    older = ", or pip install 'torch<2.11', which is built for CUDA 12" if has == 12 else ""
    return fail(found, f"update the driver (CUDA 12 needs 525, CUDA 13 needs 580){older}")


def check_processes(plan: TrainingPlan) -> Finding:
    """The processes that are launched suit the devices of this machine."""
    args, gpus, on_cpu = plan.recipe.training, torch.cuda.device_count(), uses_cpu(plan)
    try:
        layers = sorted({type(module).__name__ for module in plan.model.modules()})
    except NerError:
        layers = []
    return check_launch(
        plan.launch,
        gpus=gpus,
        gpu_has_bf16=bool(gpus) and not emulates_bf16(),
        use_cpu=on_cpu,
        bf16=args.bf16 and args.use_cpu == on_cpu,  # otherwise reading the recipe has reported it
        layers=layers,
    )


def check_trackers(plan: TrainingPlan) -> Finding:
    """The trackers that the training reports to are installed, and wandb can log in."""
    wanted = plan.recipe.training.report_to
    check_report_to(wanted)
    reports = f"report_to: {join_names(wanted) or 'none'}"
    if "wandb" not in wanted:
        return ok(reports)
    mode = os.environ.get("WANDB_MODE", "online")
    if mode in ("offline", "dryrun", "disabled"):
        return ok(f"{reports}; WANDB_MODE={mode} needs no key")
    from requests.utils import get_netrc_auth  # wandb depends on requests

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    source = next((key for key in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE") if os.environ.get(key)), None)
    if not source and get_netrc_auth(host):  # `wandb login` puts its key there
        source = "the netrc file"
    if source:
        return ok(f"{reports}; wandb's key for {host} is in {source}")
    remedy = "run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline"
    return warn(f"report_to: wandb has no key for {host}, so its run stays on this disk", remedy)


def check_report_to(report_to: Sequence[str]) -> None:
    """Raise `NerError` for a tracker that is unknown or not installed.

    >>> check_report_to(["tensorbord"])
    Traceback (most recent call last):
    qwen_ner.entities.NerError: report_to: unknown tracker, got 'tensorbord'; did you mean tensorboard?
    """
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            near = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            raise NerError("unknown tracker", value=name, place="report_to", remedy=remedy)
    modules = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
    if absent := [name for name in report_to if name in modules and not any(map(find_spec, modules[name]))]:
        remedy = f"pip install {' '.join(absent)}, or report_to: none"
        raise NerError(f"{', '.join(absent)} not installed", place="report_to", remedy=remedy)


def check_hub(plan: TrainingPlan) -> Finding:
    """A push, if one is asked for, can be made. Only the Hub knows whether the token is valid.

    What cannot be pushed is warned of, as in training, which keeps the model in output_dir.
    """
    args, base = plan.recipe.training, plan.recipe.model.model_name_or_path
    if not args.push_to_hub:
        return ok("nothing is pushed")
    if constants.HF_HUB_OFFLINE:
        return warn("push_to_hub is set, but so is HF_HUB_OFFLINE", "unset it, or set push_to_hub: false")
    if not (args.hub_token or get_token()):
        return warn("push_to_hub is set, but there is no token", "run `hf auth login`, or set HF_TOKEN")
    if plan.recipe.model.lora() and (base == "tiny" or base.startswith(MODELSCOPE) or Path(base).expanduser().exists()):
        return warn(
            f"push_to_hub of an adapter whose base, {base}, is not on the Hub: nobody could load the two",
            "give model_name_or_path as a Hub id, or set push_to_hub: false and run `qwen-ner push … --merge`",
        )
    return ok("push_to_hub is set, and there is a token (not tried)")
