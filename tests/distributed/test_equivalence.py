"""One rank, two ranks and two hosts of one rank give the same: losses, weights, scores, predictions."""

import json
from pathlib import Path

import pytest
from distributed.hosts import ACCELERATE, ADDRESSES, CONFIGS, ENVIRONMENT, config_for_here
from distributed.shards import EACH
from distributed.trains import CASES, COMPRESSED, EVALUATED
from safetensors.torch import load_file
from warm_python import warm_python

pytestmark = pytest.mark.slow

TRAINS = Path(__file__).with_name("trains.py")
ON_HOSTS = "shared_lora"
"""The case that two hosts train as well; full weights are trained by the typed command below."""


def launched(config, tiny, make_once):
    """The folder of what trains.py gives under a config that ships."""

    def make(out):
        done = warm_python.launch(CONFIGS / config, [TRAINS, tiny, out], env=ENVIRONMENT, timeout=300)
        assert done.returncode == 0, done.stderr

    return make_once(f"launched_{config}", make)


@pytest.fixture(scope="module")
def one_rank(tiny, make_once):
    return launched("cpu.yaml", tiny, make_once)


@pytest.fixture(scope="module")
def two_ranks(tiny, make_once):
    return launched("cpu_2proc.yaml", tiny, make_once)


def configs(folder):
    """The shipped config of two nodes for each host: the same but for its rank, as --machine_rank sets it."""
    return [
        config_for_here("two_nodes_8gpu.yaml", folder / f"host{rank}", main_process_ip=ADDRESSES[0], machine_rank=rank)
        for rank in (0, 1)
    ]


def interfaces(hosts):
    return [ENVIRONMENT | {"GLOO_SOCKET_IFNAME": name} for name in hosts.names]


@pytest.fixture(scope="module")
def on_two_hosts(hosts, tiny, make_once):
    def make(folder):
        for code, _, err in hosts.launch(
            configs(folder), [[TRAINS, tiny, folder / f"out{rank}", ON_HOSTS] for rank in (0, 1)], interfaces(hosts)
        ):
            assert code == 0, err

    folder = make_once("on_two_hosts", make)
    assert not list((folder / "out1").glob("*.json")), "the first rank alone writes"
    return folder / "out0"


@pytest.mark.parametrize(
    ("case", "other"),
    [
        *((case, "two_ranks") for case in CASES if case != COMPRESSED),
        pytest.param(ON_HOSTS, "on_two_hosts", marks=pytest.mark.hosts),
    ],
)
def test_the_numbers_do_not_depend_on_the_ranks(one_rank, other, case, request):
    outs = (one_rank, request.getfixturevalue(other))
    one, two = (json.loads((out / f"{case}.json").read_text(encoding="utf-8")) for out in outs)
    assert (one.pop("ranks"), two.pop("ranks")) == (1, 2)
    for key in ("losses", "norms"):
        assert two.pop(key) == pytest.approx(one.pop(key), rel=1e-3, abs=2e-4)
    assert case.endswith("lora") or 0 < one["metrics"]["test_f1"] < 1, (
        "the law says nothing where all is right or wrong"
    )
    assert [row for row, _ in one["written"]] == list(range(len(EVALUATED)))
    assert two == one
    first, second = (load_file(out / f"{case}.safetensors") for out in outs)
    assert first.keys() == second.keys()
    difference = max(float((weight - second[name]).abs().max()) for name, weight in first.items())
    assert difference <= 1e-5


def test_gradients_exchanged_in_bf16_lead_nearly_where_the_exact_ones_lead(one_rank, two_ranks, tiny):
    exact, compressed = (
        json.loads((out / f"{COMPRESSED}.json").read_text(encoding="utf-8")) for out in (one_rank, two_ranks)
    )
    assert compressed["losses"] == pytest.approx(exact["losses"], rel=0.02)
    assert compressed["losses"][-1] < 0.7 * compressed["losses"][0]
    start, wanted = load_file(tiny / "model.safetensors"), load_file(one_rank / f"{COMPRESSED}.safetensors")
    found = load_file(two_ranks / f"{COMPRESSED}.safetensors")
    away = sum((found[name] - weight).square().sum() for name, weight in wanted.items()).sqrt()
    way = sum((weight - start[name]).square().sum() for name, weight in wanted.items()).sqrt()
    assert 1e-5 * way < away < 0.02 * way, "rounded, and no more than rounded"


def with_disks(environments, folder):
    """$DISK is another folder on each host."""
    return [env | {"DISK": str(folder / f"disk{rank}")} for rank, env in enumerate(environments)]


def trains(recipe, base, *more):
    given = ["--model_name_or_path", base, *EACH["full"], "--per_device_train_batch_size", "2"]
    return ["-m", "qwen_ner", "train", recipe, *given, "--output_dir", "$DISK/out", *more]


def test_hosts_without_a_common_disk_are_told(hosts, recipe, tiny, tmp_path):
    """The second would not find the best checkpoint, and score other weights than the first."""
    environments = with_disks(interfaces(hosts), tmp_path)
    for code, _, err in hosts.launch(configs(tmp_path), [trains(recipe, tiny)] * 2, environments):
        assert code == 1
        assert "is not there for rank 1 on another machine" in err


def test_the_same_command_on_two_hosts_gives_the_model_of_one(hosts, recipe, base, plain, tmp_path):
    """Nothing is shared but the code and the base model: each host has its own launcher, cache and disk."""
    config = config_for_here("two_nodes_8gpu.yaml", tmp_path, main_process_ip=ADDRESSES[0])
    program = trains(recipe, base, "--save_on_each_node", "true")
    typed = [[*ACCELERATE, "--config_file", config, "--machine_rank", rank, *program] for rank in (0, 1)]
    homes = [env | {"HF_HOME": str(tmp_path / f"home{rank}")} for rank, env in enumerate(interfaces(hosts))]
    for code, _, err in hosts.run(typed, with_disks(homes, tmp_path)):
        assert code == 0, err
    outs = [plain / "full", tmp_path / "disk0" / "out", tmp_path / "disk1" / "out"]
    one, *two = (load_file(out / "model.safetensors") for out in outs)
    assert max(float((one[name] - host[name]).abs().max()) for host in two for name in one) <= 1e-4
    first, second = (json.loads((out / "metrics.json").read_text(encoding="utf-8")) for out in outs[:2])
    for key in ("surface", "span", "problems", "intervals", "errors"):
        assert first[key] == second[key]
    assert (outs[0] / "predictions.jsonl").read_bytes() == (outs[1] / "predictions.jsonl").read_bytes()
    assert not (outs[2] / "predictions.jsonl").exists()
