"""Processes against devices that are only said to be there: no GPU is needed to find what is wrong."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rows import ROOT

from qwen_ner.entities import NerError
from qwen_ner.training.launch import Launch, check_launch, sharding_faults

FOUR = Launch("x.yaml", "MULTI_GPU", 4)


@pytest.mark.parametrize(
    ("launch", "given", "level", "said"),
    [
        (FOUR, {"gpus": 4}, "ok", "4 processes on GPU"),
        (FOUR, {"gpus": 2}, "fail", "4 processes on a machine with 2 GPUs"),
        (FOUR, {"gpus": 8}, "warn", "4 of 8 GPUs stay idle"),
        (FOUR, {"gpus": 4, "bf16": True}, "fail", "bf16 is set"),
        (FOUR, {"gpus": 4, "bf16": True, "gpu_has_bf16": True}, "ok", "bf16"),
        (Launch(mixed_precision="bf16"), {"gpus": 1}, "ok", "mixed precision no: the GPU only emulates bf16"),
        (Launch(), {"gpus": 2}, "warn", "1 of 2 GPUs stay idle; for all of them: accelerate launch --num_processes 2"),
        (Launch(gpu_ids="0"), {"gpus": 2}, "ok", "1 process on GPU"),
        (Launch(distributed_type="MULTI_CPU", num_processes=2, use_cpu=True), {"use_cpu": True}, "fail", "starts one process, not 2"),
        (Launch(distributed_type="NO", num_processes=2, use_cpu=True), {"use_cpu": True}, "fail", "starts one process, not 2"),
        (Launch(distributed_type="MULTI_GPU", num_processes=2, use_cpu=True), {"use_cpu": True}, "ok", "2 processes on CPU"),
        (Launch(distributed_type="MULTI_GPU", num_processes=2, use_cpu=True), {}, "fail", "set use_cpu: true in the recipe"),
        (Launch(mixed_precision="fp16"), {}, "fail", "fp16 needs a GPU"),
        (Launch(distributed_type="MULTI_GPU", num_processes=8, num_machines=2, main_process_ip="192.0.2.1"), {"gpus": 4}, "fail", "set it to the first machine's address"),
        (Launch(distributed_type="MULTI_GPU", num_processes=8, num_machines=2, main_process_ip="10.0.0.1"), {"gpus": 4}, "ok", "8 processes on 2 machines"),
        (Launch(distributed_type="FSDP", num_processes=4, wrapped_layers=("Qwen3DecoderLayer",)), {"gpus": 4, "layers": ["Qwen2DecoderLayer"]}, "fail", "Qwen3DecoderLayer"),
        (Launch(distributed_type="FSDP", num_processes=4, shards_states=True), {"gpus": 4}, "ok", "4 processes on GPU"),
        (Launch(distributed_type="FSDP", num_processes=4, shards_states=True, fsdp_version=1), {"gpus": 4}, "fail", "set fsdp_version: 2"),
        (Launch(distributed_type="FSDP", num_processes=4, shards_states=True, saves_whole=False), {"gpus": 4}, "fail", "set fsdp_state_dict_type: FULL_STATE_DICT"),
        (Launch(distributed_type="DEEPSPEED", num_processes=4, shards_states=True, saves_whole=False), {"gpus": 4}, "fail", "set zero3_save_16bit_model: true"),
        (Launch(distributed_type="FSDP", num_processes=2, shards_states=True, use_cpu=True), {"use_cpu": True}, "fail", "accelerate does not shard on CPUs"),
    ],
)  # fmt: skip
def test_a_launch_against_the_devices(launch, given, level, said):
    found = check_launch(launch, **{"gpus": 0, "gpu_has_bf16": False, "use_cpu": False, "bf16": False, **given})
    assert (found.level, said in found.message) == (level, True), found.message


def test_the_shipped_configs_are_read_and_a_broken_one_is_refused(tmp_path):
    read = {path.stem: Launch.of_file(path) for path in (ROOT / "accelerate_configs").glob("*.yaml")}
    named = Launch.of_file(Path("ddp_4gpu"))
    assert named == replace(read["ddp_4gpu"], place=named.place)
    assert (read["fsdp2_4gpu"].shards_weights, read["zero2_4gpu"].shards_weights, read["ddp_4gpu"].shards_states) == (
        True,
        False,
        False,
    )
    assert all(launch.saves_whole and launch.fsdp_version == 2 for launch in read.values() if launch.shards_states)
    assert read["zero3_4gpu"].shards_weights
    assert (read["zero2_4gpu"].shards_states, read["two_nodes_8gpu"].processes_here) == (True, 4)
    broken = ("num_processes: -1", "num_processes: two", "num_process: 4", "num_machines: 0", "deepspeed_config: [a]")
    for text in ("a: [", "- x\n", "", *(f"distributed_type: DEEPSPEED\n{line}\n" for line in broken),
                 "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: x}\n",
                 "distributed_type: FSDP\nfsdp_config: {fsdp_version: two}\n"):  # fmt: skip
        (tmp_path / "broken.yaml").write_text(text)
        with pytest.raises(NerError) as error:
            Launch.of_file(tmp_path / "broken.yaml")
        assert error.value.place == tmp_path / "broken.yaml"
        assert "cpu, cpu_2proc, ddp_4gpu" in error.value.remedy


@pytest.mark.parametrize(
    ("config", "key", "meant"),
    [("fsdp2_4gpu", "fsdp_state_dict_typ", "fsdp_state_dict_type"), ("zero3_4gpu", "zero_stages", "zero_stage")],
)
def test_a_key_that_accelerate_ignores_is_refused(tmp_path, config, key, meant):
    text = (ROOT / "accelerate_configs" / f"{config}.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text.replace(f"  {meant}:", f"  {key}:"), encoding="utf-8")
    with pytest.raises(NerError) as error:
        Launch.of_file(tmp_path / "config.yaml")
    assert (error.value.place, error.value.value) == (tmp_path / "config.yaml", key)
    assert error.value.remedy == f"did you mean {meant}?"


def test_a_launched_process_is_read_from_its_environment():
    launch = Launch.of_environment({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "ACCELERATE_MIXED_PRECISION": "bf16"})
    assert (launch.num_processes, launch.num_machines, launch.processes_here, launch.mixed_precision) == (
        8,
        2,
        4,
        "bf16",
    )
    assert Launch.of_environment({}) == Launch()


@pytest.mark.parametrize(
    ("env", "remedy"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FULL_STATE_DICT"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, ""),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, ""),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3_save_16bit_model: true"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, ""),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"}, ""),
    ],
)
def test_what_a_sharded_training_would_leave_is_known_from_its_environment(env, remedy):
    launch = Launch.of_environment(env)
    assert launch.distributed_type == ("FSDP" if "ACCELERATE_USE_FSDP" in env else "DEEPSPEED")
    faults = sharding_faults(Launch.of_environment(env))
    assert (remedy in "".join(fault.remedy for fault in faults), bool(faults)) == (True, bool(remedy))


@pytest.mark.parametrize(
    ("zero", "settings", "stage", "remedy"),
    [
        ({"stage": 3}, "", 3, "stage3_gather_16bit_weights_on_model_save"),
        ({"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}, "", 3, ""),
        ({"stage": "auto", "stage3_gather_16bit_weights_on_model_save": "auto"}, "zero_stage: 3", 3, "zero3_save"),
        ({"stage": "auto", "stage3_gather_16bit_weights_on_model_save": "auto"}, "zero3_save_16bit_model: true\n  zero_stage: 3", 3, ""),
        ({"stage": 2}, "zero3_init_flag: null", 2, ""),
        ({}, "", 0, ""),
    ],
)  # fmt: skip
def test_a_deepspeed_file_counts_as_accelerate_reads_it(tmp_path, zero, settings, stage, remedy):
    """The doctor reads accelerate's config, a training the environment that accelerate makes of it."""
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": zero}))
    path = tmp_path / "config.yaml"
    path.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\nnum_processes: 4\nnum_machines: 1\n"
        f"deepspeed_config:\n  deepspeed_config_file: {tmp_path / 'ds.json'}\n  {settings}\n"
    )
    given = dict(line.strip().split(": ") for line in settings.splitlines() if "null" not in line)
    env = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "ds.json")}
    env |= {f"ACCELERATE_DEEPSPEED_{key.upper()}": value for key, value in given.items()}
    for launch in (Launch.of_file(path), Launch.of_environment(env)):
        assert launch.distributed_type == "DEEPSPEED"
        assert (launch.shards_weights, launch.shards_states) == (stage == 3, stage > 0)
        faults = sharding_faults(launch)
        assert (remedy in "".join(fault.remedy for fault in faults), bool(faults)) == (True, bool(remedy))


@pytest.mark.parametrize(
    "content",
    [None, "[", "[]", "{}", '{"zero_optimization": {"stage": "three"}}', '{"zero_optimization": {"stage": null}}'],
)
def test_a_deepspeed_file_that_cannot_be_read_is_named(tmp_path, content):
    path, config = tmp_path / "ds.json", tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    config.write_text(
        f"distributed_type: DEEPSPEED\nnum_processes: 2\nnum_machines: 1\ndeepspeed_config:\n  deepspeed_config_file: {path}\n"
    )
    env = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    for read in (lambda: Launch.of_environment(env), lambda: Launch.of_file(config)):
        with pytest.raises(NerError, match="cannot read the DeepSpeed config") as caught:
            read()
        assert caught.value.place == str(path)


def test_a_deepspeed_config_may_be_its_own_text_and_null_is_none(tmp_path):
    text = base64.urlsafe_b64encode(b'{"zero_optimization": {"stage": 3}}').decode()
    env = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": text}
    assert Launch.of_environment(env).shards_weights
    config = tmp_path / "config.yaml"
    config.write_text(
        "distributed_type: DEEPSPEED\nnum_processes: 2\nnum_machines: 1\ndeepspeed_config:\n  deepspeed_config_file: null\n  zero_stage: 3\n"
    )
    assert Launch.of_file(config).shards_weights
