"""The processes that a training is launched as, checked against the devices of this machine.

In: an accelerate config or the environment of a launched process, and the devices. Out: a `Launch`, a `Finding`. Starts
nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from ..columns import join_names
from ..entities import NerError
from ..files import shipped
from .finding import Finding, fail, ok, warn

EXAMPLE_ADDRESSES = ("192.0.2.", "198.51.100.", "203.0.113.")
"""Addresses for documentation (RFC 5737), one of which stands in the shipped config for two machines."""


def command_for(gpus: int) -> str:
    """The command that trains on all GPUs of a machine, short of the recipe."""
    return f"accelerate launch --num_processes {gpus} --mixed_precision bf16 -m qwen_ner train …"


@dataclass(frozen=True)
class Launch:
    """What `accelerate launch` was told, by a config file or its environment. Fields are named as in its config."""

    place: str = "no accelerate config"
    distributed_type: str = "NO"
    num_processes: int = 1
    num_machines: int = 1
    use_cpu: bool = False
    mixed_precision: str = "no"
    gpu_ids: str | None = "all"
    main_process_ip: str | None = None
    shards_weights: bool = False
    shards_states: bool = False
    wrapped_layers: tuple[str, ...] = ()
    fsdp_version: int = 2
    saves_whole: bool = True

    @property
    def processes_here(self) -> int:
        """Processes on each machine."""
        return max(1, self.num_processes // max(1, self.num_machines))

    @classmethod
    def of_file(cls, path: Path) -> Launch:
        """An accelerate config, a file or the name of a shipped one, read by accelerate's own classes.

        Raises `NerError` if they refuse it.
        """
        from accelerate.commands.config.config_args import load_config_from_file

        known = shipped("accelerate_configs")
        path = path if path.is_file() else known.get(str(path), path)
        try:
            config = load_config_from_file(str(path))
            fsdp, deepspeed = config.fsdp_config or {}, config.deepspeed_config or {}
            kind = getattr(config.distributed_type, "value", str(config.distributed_type))
            processes, machines = int(config.num_processes), int(config.num_machines)
            if min(processes, machines) < 1:
                raise ValueError("num_processes and num_machines are at least 1")
            # As `accelerate launch` would set it.
            env = {key.upper(): str(value) for key, value in fsdp.items()} if kind == "FSDP" else {}
            env["FSDP_TRANSFORMER_CLS_TO_WRAP"] = str(fsdp.get("fsdp_transformer_layer_cls_to_wrap") or "")
            if kind == "DEEPSPEED":
                settings = {"zero_stage": 2} | {key: value for key, value in deepspeed.items() if value is not None}
                names = {key: key.removeprefix("deepspeed_").upper() for key in settings}  # deepspeed_config_file
                env |= {f"ACCELERATE_DEEPSPEED_{names[key]}": str(value) for key, value in settings.items()}
            launch = cls.of_environment(env | {"ACCELERATE_USE_FSDP": str(kind == "FSDP")})
        except NerError:
            raise
        except Exception as error:  # YAML's own errors have no other base
            reason = " ".join(str(error).split())
            remedy = f"give a file, or the name of a shipped config: {', '.join(known)}"
            raise NerError(f"not an accelerate config ({reason})", place=path, remedy=remedy) from None
        _check_nested(path, {"fsdp_config": fsdp, "deepspeed_config": deepspeed})
        return replace(
            launch,
            place=str(path),
            distributed_type=kind,
            num_processes=processes,
            num_machines=machines,
            use_cpu=config.use_cpu,
            mixed_precision=config.mixed_precision or "no",
            gpu_ids=config.gpu_ids,
            main_process_ip=config.main_process_ip,
        )

    @classmethod
    def of_environment(cls, env: Mapping[str, str]) -> Launch:
        """What `accelerate launch` (or torchrun) set for this very process; one process if neither was used."""
        processes = int(env.get("WORLD_SIZE", "1"))
        here = int(env.get("LOCAL_WORLD_SIZE", processes))
        stage, gathers = _zero(env)
        fsdp = env.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        plain = "MULTI_GPU" if processes > 1 else "NO"
        kind = "FSDP" if fsdp else plain if stage is None else "DEEPSPEED"
        full = env.get("FSDP_STATE_DICT_TYPE", "").upper() == "FULL_STATE_DICT"  # by default FSDP2's are in parts
        return cls(
            place="the environment" if "WORLD_SIZE" in env or "ACCELERATE_MIXED_PRECISION" in env else cls.place,
            distributed_type=kind,
            num_processes=processes,
            num_machines=max(1, processes // max(1, here)),
            use_cpu=env.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"),
            mixed_precision=env.get("ACCELERATE_MIXED_PRECISION") or "no",
            main_process_ip=env.get("MASTER_ADDR"),
            shards_weights=fsdp or stage == 3,
            shards_states=fsdp or bool(stage),
            wrapped_layers=tuple(filter(None, env.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(","))),
            fsdp_version=int(env.get("FSDP_VERSION", "1")) if fsdp else cls.fsdp_version,
            saves_whole=full if fsdp else stage != 3 or gathers,
        )


def _zero(env: Mapping[str, str]) -> tuple[int | None, bool]:
    """(the stage of DeepSpeed's ZeRO, whether it gathers the weights to save them); (None, False) without DeepSpeed.

    A DeepSpeed file, which may also be its own text, counts alone, except where it says "auto". Raises `NerError` if it
    cannot be read.
    """
    known, file = env.get("ACCELERATE_DEEPSPEED_ZERO_STAGE"), env.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if known is None and env.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true":
        return None, False
    stage, gathers = int(known or 2), env.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "").lower() == "true"
    if file == "none":
        return stage, gathers
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    try:
        zero = HfDeepSpeedConfig(file).config["zero_optimization"]
        written, saved = zero.get("stage", 0), zero.get("stage3_gather_16bit_weights_on_model_save", False)
        return stage if written == "auto" else int(written), gathers if saved == "auto" else bool(saved)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        remedy = "name a file of JSON with zero_optimization in deepspeed_config_file"
        raise NerError(f"cannot read the DeepSpeed config ({error!r})", place=file, remedy=remedy) from None


def _check_nested(path: Path, parts: Mapping[str, Mapping[str, object]]) -> None:
    """Raise `NerError` for keys of the sub-configs that accelerate would silently ignore."""
    from accelerate.commands.launch import launch_command_parser

    known = [action.dest for action in launch_command_parser()._actions]
    for name, part in parts.items():
        for key in [key for key in part if key not in known]:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else None
            raise NerError(f"accelerate ignores an unknown key of {name}", value=key, place=path, remedy=remedy)


def sharding_faults(launch: Launch) -> list[NerError]:
    """Settings of a sharded training that would leave no usable model, or are not supported."""
    faults = []
    if launch.distributed_type == "FSDP" and launch.fsdp_version != 2:
        remedy = "set fsdp_version: 2 (accelerate_configs/fsdp2_4gpu.yaml)"
        faults.append(NerError("FSDP version 1 is not supported", remedy=remedy))
    if not launch.saves_whole:
        deepspeed = launch.distributed_type == "DEEPSPEED"
        zero3 = "zero3_save_16bit_model: true (in a DeepSpeed file: stage3_gather_16bit_weights_on_model_save)"
        key = zero3 if deepspeed else "fsdp_state_dict_type: FULL_STATE_DICT"
        what = "checkpoints would hold the parts of each process and no usable model"
        faults.append(NerError(what, remedy=f"set {key}"))
    return faults


def check_launch(
    launch: Launch, *, gpus: int, gpu_has_bf16: bool, use_cpu: bool, bf16: bool, layers: Sequence[str] = ()
) -> Finding:
    """The processes of `launch` against the devices of this machine; `use_cpu` and `bf16` are the recipe's.

    `layers` are the class names of the model's modules, empty if unknown.
    """
    on_cpu = use_cpu or launch.use_cpu
    precision = "bf16" if bf16 else launch.mixed_precision
    if launch.mixed_precision == "bf16" and gpus and not (bf16 or gpu_has_bf16 or on_cpu):
        precision = "no: the GPU only emulates bf16"
    faults = _process_faults(launch, gpus, use_cpu)
    if precision == "bf16" and not (on_cpu or gpu_has_bf16 or faults):
        faults.append("bf16 is set, but no GPU here supports it; set bf16: false, or use_cpu: true for a trial")
    if precision == "fp16" and (on_cpu or not gpus):
        faults.append("fp16 needs a GPU; set mixed_precision: no")
    faults += map(str, sharding_faults(launch))
    if on_cpu and launch.shards_states:
        faults.append("accelerate does not shard on CPUs, and does not say so; use accelerate_configs/cpu_2proc.yaml")
    if launch.distributed_type == "DEEPSPEED" and find_spec("deepspeed") is None:
        faults.append("deepspeed is not installed; pip install deepspeed")
    if absent := [name for name in launch.wrapped_layers if layers and name not in layers]:
        own = join_names(sorted(name for name in set(layers) if name.endswith("Layer")))
        faults.append(f"the model has no {join_names(absent)}; set fsdp_transformer_layer_cls_to_wrap to one of {own}")
    if faults:
        return fail(f"{launch.place}: " + "\n".join(faults))
    idle = gpus - launch.processes_here
    if idle > 0 and not on_cpu and launch.gpu_ids in (None, "all"):
        return warn(f"{launch.place}: {idle} of {gpus} GPUs stay idle", f"for all of them: {command_for(gpus)}")
    device = "CPU" if on_cpu or not gpus else "GPU"
    count = "1 process" if launch.num_processes == 1 else f"{launch.num_processes} processes"
    machines = f" on {launch.num_machines} machines" if launch.num_machines > 1 else ""
    return ok(f"{launch.place}: {count}{machines} on {device}, mixed precision {precision}")


def _process_faults(launch: Launch, gpus: int, use_cpu: bool) -> list[str]:
    """Why these processes would not start, or not find each other."""
    faults, kind, on_cpu = [], launch.distributed_type, use_cpu or launch.use_cpu
    if launch.num_processes > 1:
        if kind == "MULTI_CPU" or (on_cpu and kind == "NO"):
            there = "use accelerate_configs/cpu_2proc.yaml, which is MULTI_GPU with use_cpu"
            faults.append(f"{kind} starts one process, not {launch.num_processes}; {there}")
        if launch.use_cpu and not use_cpu:
            faults.append("each process would train alone; set use_cpu: true in the recipe too")
        if not on_cpu and launch.processes_here > gpus:
            there = f"{launch.processes_here} processes on a machine with {gpus or 'no'} GPU{'s'[: gpus != 1]}"
            faults.append(f"{there}; set num_processes to their number, or check CUDA_VISIBLE_DEVICES")
    if launch.num_machines > 1 and (not launch.main_process_ip or launch.main_process_ip.startswith(EXAMPLE_ADDRESSES)):
        faults.append(f"main_process_ip is {launch.main_process_ip}; set it to the first machine's address")
    return faults
