"""What the machine has for a training: memory, disk, accounts.

In: what is needed, and what is there, as plain values. Out: a `Finding` each. Asks nothing of a network.
"""

from __future__ import annotations

import netrc
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..finding import Finding, listed
from ..recipe import Recipe
from .costs import Memory, checkpoint_bytes, kept_checkpoints, size, steps

ROOM = 1.1
"""How much more than the estimated memory a device should have: its context, fragmentation, libraries."""


def check_memory(expected: Memory, available: int | None, device: str) -> Finding:
    """The estimate of a step's peak against what the device has; `available` None where that is not here to be seen."""
    parts = {
        "weights": expected.weights,
        "gradients": expected.gradients,
        "Adam": expected.optimizer,
        "activations": expected.activations,
        "logits": expected.logits,
    }
    needs = f"about {size(expected.total)} a process ({' + '.join(f'{name} {size(n)}' for name, n in parts.items())})"
    if available is None:
        return Finding("ok", "memory", f"{needs}; the {device} it is for is not here")
    found = f"{needs}, of {size(available)} on the {device}"
    if expected.total * ROOM <= available:
        return Finding("ok", "memory", found)
    remedy = "halve per_device_train_batch_size and double gradient_accumulation_steps, or set activation_checkpointing"
    return Finding("fail" if expected.total > available else "warn", "memory", found, remedy)


def check_disk_of(recipe: Recipe, every: int, trained: int, rows: int, processes: int | None = None) -> Finding:
    """`check_disk` for what a recipe writes, `every` and `trained` being its model's parameters."""
    args = recipe.training
    total, an_epoch = steps(
        rows,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        processes or args.world_size,
        args.num_train_epochs,
        args.max_steps,
        args.dataloader_drop_last,
    )
    count = kept_checkpoints(
        args.save_strategy,
        args.save_total_limit,
        args.load_best_model_at_end,
        total,
        an_epoch,
        args.save_steps,
    )
    lora = recipe.model.lora_r is not None
    one = checkpoint_bytes(every, trained, lora, with_optimizer=not args.save_only_model)
    final = checkpoint_bytes(every, trained, lora, with_optimizer=False)
    output = Path(args.output_dir)
    there = len(list(output.glob("checkpoint-*")))  # they make room when new ones come
    return check_disk(output, one, max(count - there, min(count, 1)), final)


def check_disk(
    output: Path, checkpoint: int, count: int, final: int, usage: Callable[[Path], Any] | None = None
) -> Finding:
    """Free bytes under `output` against `count` checkpoints of `checkpoint` bytes and a model of `final` bytes."""
    place = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding("fail", "disk", f"{output} cannot be written", "choose another --output_dir")
    free = (usage or shutil.disk_usage)(place).free
    need = count * checkpoint + final
    checkpoints = f"{count} checkpoint{'s'[: count != 1]} of {size(checkpoint)}"
    found = f"{checkpoints} and the model need {size(need)}, free under {output} are {size(free)}"
    if free >= need:
        return Finding("ok", "disk", found)
    remedy = "free space, choose another --output_dir, lower save_total_limit, or set save_only_model: true"
    return Finding("fail" if free < min(count, 1) * checkpoint + final else "warn", "disk", found, remedy)


def check_trackers(
    report_to: Sequence[str], env: Mapping[str, str], installed: Callable[[str], Any] = find_spec
) -> Finding:
    """That what the training reports to is installed, and wandb can log in."""
    wanted = [name for name in report_to if name != "none"]
    if absent := missing_trackers(wanted, installed):
        return Finding(
            "fail", "trackers", f"report_to: {listed(absent)} not installed", f"pip install {' '.join(absent)}"
        )
    if "wandb" not in wanted:
        return Finding("ok", "trackers", f"report_to: {listed(wanted) or 'none'}")
    mode = env.get("WANDB_MODE", "online")
    if mode in ("offline", "dryrun", "disabled"):
        return Finding("ok", "trackers", f"report_to: {listed(wanted)}; WANDB_MODE={mode} needs no key")
    host = urlsplit(env.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    source = next((key for key in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE") if env.get(key)), None)
    source = source or _netrc_with(host, env)
    if source is None:
        return Finding(
            "fail",
            "trackers",
            f"report_to: wandb has no key for {host}",
            "run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline",
        )
    return Finding("ok", "trackers", f"report_to: {listed(wanted)}; wandb's key for {host} is in {source}")


def missing_trackers(report_to: Sequence[str], installed: Callable[[str], Any] = find_spec) -> list[str]:
    """Those of the trackers that pip knows by the same name and that are not installed."""
    modules = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
    return [name for name in report_to if name in modules and not any(map(installed, modules[name]))]


def _netrc_with(host: str, env: Mapping[str, str]) -> str | None:
    """The netrc file that has a password for `host`, if any: where `wandb login` puts its key."""
    home = Path(env.get("HOME", "~")).expanduser()
    for path in [Path(env["NETRC"]).expanduser()] if env.get("NETRC") else [home / ".netrc", home / "_netrc"]:
        try:
            entry = netrc.netrc(str(path)).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry and entry[2]:
            return str(path)
    return None


def check_hub(push_to_hub: bool, token: str | None, offline: bool, local_base: str | None = None) -> Finding:
    """That a push, if one is asked for, can be made; whether the token is valid only the Hub knows.

    `local_base` is the folder that an adapter is trained on top of: nobody could load the two from the Hub.
    """
    if not push_to_hub:
        return Finding("ok", "hub", "nothing is pushed")
    if offline:
        return Finding("fail", "hub", "push_to_hub with HF_HUB_OFFLINE set", "unset it, or set push_to_hub: false")
    if not token:
        return Finding("fail", "hub", "push_to_hub, and there is no token", "run `hf auth login`, or set HF_TOKEN")
    if local_base:
        return Finding(
            "fail",
            "hub",
            f"push_to_hub of an adapter whose base is {local_base}, no repository of the Hub",
            "give model_name_or_path as a Hub id, or set push_to_hub: false and push with `qwen-ner push … --merge`",
        )
    return Finding("ok", "hub", "push_to_hub, and there is a token (not tried)")
