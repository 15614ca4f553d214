"""One rank, two ranks and two hosts of one rank give the same: losses, weights, scores, predictions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from distributed.hosts import ACCELERATE, ADDRESSES, CONFIGS, ENVIRONMENT, config_for_here, two_hosts, unavailable
from distributed.trains import CASES, EVALUATED
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

TRAINS = Path(__file__).with_name("trains.py")


def ran(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def one_rank(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    ran([sys.executable, TRAINS, tiny, out])
    return out


@pytest.fixture(scope="module")
def two_ranks(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    ran([*ACCELERATE, "--config_file", CONFIGS / "cpu_2proc.yaml", TRAINS, tiny, out])
    return out


@pytest.fixture(scope="module")
def hosts():
    if reason := unavailable():
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield hosts


def commands(folder, *what):
    """What is typed on each host: the same but for --machine_rank, on the shipped config of two nodes."""
    config = config_for_here("two_nodes_8gpu.yaml", folder, main_process_ip=ADDRESSES[0])
    return [[*ACCELERATE, "--config_file", config, "--machine_rank", rank, *what[rank]] for rank in (0, 1)]


def environments(hosts, folder):
    """Nothing is shared but the code and the base model: each host has its own cache."""
    return [
        ENVIRONMENT | {"GLOO_SOCKET_IFNAME": name, "HF_HOME": str(folder / f"home{rank}")}
        for rank, name in enumerate(hosts.names)
    ]


@pytest.fixture(scope="module")
def on_two_hosts(hosts, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    outs = [folder / "out0", folder / "out1"]
    typed = commands(folder, *([TRAINS, tiny, out] for out in outs))
    for code, _, err in hosts.run(typed, environments(hosts, folder)):
        assert code == 0, err
    assert not list(outs[1].glob("*.json")), "the first rank alone writes"
    return outs[0]


@pytest.mark.parametrize("other", ["two_ranks", "on_two_hosts"])
@pytest.mark.parametrize("case", CASES)
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
