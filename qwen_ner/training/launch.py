"""The processes that a training is launched as, against the devices there are.

In: an accelerate config or the environment of a launched process, and what the machine has. Out: a `Finding`. Starts
nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..entities import NerError
from .finding import Finding, listed

EXAMPLE_ADDRESSES = ("192.0.2.", "198.51.100.", "203.0.113.")
"""Addresses for documentation (RFC 5737), as the shipped config of two machines holds one."""


@dataclass(frozen=True)
class Launch:
    """What `accelerate launch` is told, by a config file or its environment: the fields of its config."""

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
    def here(self) -> int:
        """Processes on each machine."""
        return max(1, self.num_processes // max(1, self.num_machines))

    @classmethod
    def of_file(cls, path: Path) -> Launch:
        """Read by accelerate's own classes. Raises `NerError` for what they refuse."""
        from accelerate.commands.config.config_args import load_config_from_file

        try:
            config = load_config_from_file(str(path))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise NerError(
                f"{path} is no accelerate config ({reason}); the shipped ones are in accelerate_configs/"
            ) from None
        except Exception as error:  # YAML's own errors have no base but Exception
            reason = " ".join(str(error).split())
            raise NerError(f"{path} is not YAML ({reason}); the shipped ones are in accelerate_configs/") from None
        kind = getattr(config.distributed_type, "value", str(config.distributed_type))
        fsdp, deepspeed = config.fsdp_config or {}, config.deepspeed_config or {}
        _check_nested(path, {"fsdp_config": fsdp, "deepspeed_config": deepspeed})
        stage = int(deepspeed.get("zero_stage", 2)) if kind == "DEEPSPEED" else 0
        layers = str(fsdp.get("fsdp_transformer_layer_cls_to_wrap") or "")
        return cls(
            place=str(path),
            distributed_type=kind,
            num_processes=config.num_processes,
            num_machines=config.num_machines,
            use_cpu=config.use_cpu,
            mixed_precision=config.mixed_precision or "no",
            gpu_ids=config.gpu_ids,
            main_process_ip=config.main_process_ip,
            shards_weights=kind == "FSDP" or stage == 3,
            shards_states=kind == "FSDP" or stage >= 1,
            wrapped_layers=tuple(filter(None, layers.split(","))),
            fsdp_version=int(fsdp.get("fsdp_version", 1)) if kind == "FSDP" else cls.fsdp_version,
            saves_whole=_saves_whole(
                kind, stage, fsdp.get("fsdp_state_dict_type"), deepspeed.get("zero3_save_16bit_model")
            ),
        )

    @classmethod
    def of_environment(cls, env: Mapping[str, str]) -> Launch:
        """What `accelerate launch` (or torchrun) has set for this very process; one process where it was not used."""
        processes = int(env.get("WORLD_SIZE", "1"))
        here = int(env.get("LOCAL_WORLD_SIZE", processes))
        sharded = env.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        stage = int(env.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0"))
        kind = "FSDP" if sharded else "DEEPSPEED" if stage else "MULTI_GPU" if processes > 1 else "NO"
        return cls(
            place="the environment" if "WORLD_SIZE" in env or "ACCELERATE_MIXED_PRECISION" in env else cls.place,
            distributed_type=kind,
            num_processes=processes,
            num_machines=max(1, processes // max(1, here)),
            use_cpu=env.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"),
            mixed_precision=env.get("ACCELERATE_MIXED_PRECISION") or "no",
            main_process_ip=env.get("MASTER_ADDR"),
            shards_weights=sharded or stage == 3,
            shards_states=sharded or stage >= 1,
            wrapped_layers=tuple(filter(None, env.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(","))),
            fsdp_version=int(env.get("FSDP_VERSION", "1")) if sharded else cls.fsdp_version,
            saves_whole=_saves_whole(
                kind, stage, env.get("FSDP_STATE_DICT_TYPE"), env.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL")
            ),
        )


def _check_nested(path: Path, parts: Mapping[str, Mapping[str, object]]) -> None:
    """Raise `NerError` for keys of the sub-configs that accelerate would pass over without a word."""
    from accelerate.commands.launch import launch_command_parser

    known = [action.dest for action in launch_command_parser()._actions]
    for name, part in parts.items():
        for key in part:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
                meant = f"; did you mean {near[0]}?" if near else ""
                raise NerError(f"{path}: {name}: {key} is unknown to accelerate, which would pass over it{meant}")


def _saves_whole(kind: str, stage: int, state_dict_type: str | None, save_16bit: object) -> bool:
    """Whether checkpoints hold the whole model beside the parts to resume from. By default FSDP2's do not."""
    if kind == "FSDP":
        return str(state_dict_type).upper() == "FULL_STATE_DICT"
    return stage != 3 or str(save_16bit).lower() == "true"


def sharding_faults(launch: Launch) -> list[str]:
    """What of a sharded training would end without a model to use, or was never made to work here."""
    faults = []
    if launch.distributed_type == "FSDP" and launch.fsdp_version != 2:
        faults.append("FSDP of version 1 is not supported; set fsdp_version: 2 (accelerate_configs/fsdp2_4gpu.yaml)")
    if not launch.saves_whole:
        of = {"DEEPSPEED": "zero3_save_16bit_model: true", "FSDP": "fsdp_state_dict_type: FULL_STATE_DICT"}
        key = of[launch.distributed_type]
        faults.append(f"checkpoints would hold the parts of each process and no model that can be used; set {key}")
    return faults


def check_launch(
    launch: Launch, *, gpus: int, gpu_has_bf16: bool, use_cpu: bool, bf16: bool, layers: Sequence[str] = ()
) -> Finding:
    """The processes that are asked for against the devices there are; `use_cpu` and `bf16` are the recipe's.

    `layers` are the classes of the model's modules, where they are known.
    """
    wrong, doubtful = [], []
    on_cpu = use_cpu or launch.use_cpu
    if launch.num_processes > 1 and (
        launch.distributed_type == "MULTI_CPU" or (on_cpu and launch.distributed_type == "NO")
    ):
        wrong.append(
            f"{launch.distributed_type} starts one process, not {launch.num_processes}; for several on CPU take "
            "accelerate_configs/cpu_2proc.yaml (MULTI_GPU with use_cpu)"
        )
    if launch.num_processes > 1 and launch.use_cpu and not use_cpu:
        wrong.append("each process would believe itself alone; set use_cpu: true in the recipe as well")
    if not on_cpu and launch.num_processes > 1 and launch.here > gpus:
        wrong.append(
            f"{launch.here} processes on a machine with {_gpus(gpus)}; set num_processes to what is there, or "
            "CUDA_VISIBLE_DEVICES is too narrow"
        )
    precision = "bf16" if bf16 else launch.mixed_precision
    if precision == "bf16" and not (on_cpu or gpu_has_bf16 or wrong):
        wrong.append(
            f"bf16 is asked for, and {_gpus(gpus)} here can compute it; set bf16: false, or use_cpu: true to try"
        )
    if precision == "fp16" and (on_cpu or not gpus):
        wrong.append("fp16 is asked for and needs a GPU; set mixed_precision: no")
    if launch.num_machines > 1 and (not launch.main_process_ip or launch.main_process_ip.startswith(EXAMPLE_ADDRESSES)):
        wrong.append(
            f"main_process_ip is {launch.main_process_ip}, no address of a machine; put in the first machine's address"
        )
    wrong += sharding_faults(launch)
    if on_cpu and launch.shards_states:
        wrong.append(
            f"accelerate does not shard on the CPU: {launch.distributed_type} would be plain data parallel without a "
            "word; take accelerate_configs/cpu_2proc.yaml"
        )
    if launch.distributed_type == "DEEPSPEED" and find_spec("deepspeed") is None:
        wrong.append("deepspeed is not installed; pip install deepspeed")
    absent = [name for name in launch.wrapped_layers if layers and name not in layers]
    if absent:
        wrong.append(
            f"fsdp_transformer_layer_cls_to_wrap names {listed(absent)}, which the model has not; name its layers, of: "
            f"{listed(sorted(name for name in set(layers) if name.endswith('Layer')))}"
        )
    if not on_cpu and launch.num_processes == 1 and launch.gpu_ids in (None, "all") and gpus > 1:
        doubtful.append(
            f"one process and {_gpus(gpus)}: the Trainer would split batches by DataParallel, which was never tried "
            "here; launch with accelerate_configs/ddp_4gpu.yaml or set CUDA_VISIBLE_DEVICES=0"
        )
    elif not on_cpu and launch.num_processes > 1 and launch.here < gpus:
        doubtful.append(f"{gpus - launch.here} of {_gpus(gpus)} stay idle; set num_processes to {gpus}")
    if wrong or doubtful:
        said = "\n".join(wrong + doubtful)
        return Finding("fail" if wrong else "warn", "processes", f"{launch.place}: {said}")
    device = "CPU" if on_cpu or not gpus else "GPU"
    count = "1 process" if launch.num_processes == 1 else f"{launch.num_processes} processes"
    machines = f" on {launch.num_machines} machines" if launch.num_machines > 1 else ""
    return Finding("ok", "processes", f"{launch.place}: {count}{machines} on {device}, mixed precision {precision}")


def _gpus(number: int) -> str:
    return "no GPU" if not number else "1 GPU" if number == 1 else f"{number} GPUs"
