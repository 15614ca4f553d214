"""A fork of the warm Python is what a cold start of the same program is."""

import json
import os
import signal
import subprocess
import sys

import pytest
from distributed.hosts import config_for_here
from rows import ROOT

TWO = ROOT / "accelerate_configs" / "cpu_2proc.yaml"

SELF = """
import json, os, sys
print(json.dumps([sys.argv, os.environ.get("COLOUR"), os.getcwd(), os.getpid() == os.getpgid(0), sys.path[0], __name__]))
print("说", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


def test_a_fork_is_as_a_cold_start(warm_python, tmp_path):
    (tmp_path / "program.py").write_text(SELF, encoding="utf-8")
    environment = os.environ | {"COLOUR": "red"}
    for command in (["-c", SELF, "3", "a b"], ["program.py", "0"], ["-m", "program", "1"]):
        options = {"env": environment, "cwd": tmp_path}
        warm = warm_python.run([sys.executable, *command], **options)
        cold = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True,
            **options,
        )  # fmt: skip
        assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_a_fork_has_its_imports_done_and_one_thread(warm_python):
    code = "import sys, threading; print('qwen_ner.training.run' in sys.modules, threading.active_count())"
    assert warm_python.run([sys.executable, "-c", code]).stdout == "True 1\n"


def test_how_a_fork_ends_is_told(warm_python):
    wait = "import time; print('up', flush=True); time.sleep(60)"
    process = warm_python.start([sys.executable, "-c", wait], stdout=subprocess.PIPE)
    assert process.stdout.readline() == "up\n"
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) in (-signal.SIGINT, 130, 1)
    process = warm_python.start([sys.executable, "-c", wait], stdout=subprocess.PIPE)
    process.kill()
    assert process.communicate(20)[0] in ("", "up\n")
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        warm_python.run([sys.executable, "-c", wait], timeout=0.2)
    assert warm_python.run([sys.executable, "-c", "raise ValueError('so')"]).returncode == 1


def test_what_is_read_at_import_makes_it_a_cold_start(warm_python):
    """huggingface_hub reads HF_HUB_OFFLINE once: a fork would not see the other value."""
    code = "from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    assert warm_python.run([sys.executable, "-c", code], env=environment).stdout == "False\n"
    assert warm_python.run([sys.executable, "-c", code]).stdout == "True\n"


@pytest.mark.parametrize("name", ["cpu_2proc.yaml", "fsdp2_4gpu.yaml"])
def test_a_launch_is_what_accelerate_makes_of_the_config(warm_python, tmp_path, name):
    """The ranks, and the variables that say what is launched; torchrun's about itself are not there."""
    config = config_for_here(name, tmp_path, main_process_port=0)
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, sys\n"
        "mine = {k: v for k, v in os.environ.items() if k.startswith(('ACCELERATE_', 'FSDP_')) or k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')}\n"
        "sys.stdout.write(json.dumps([mine, sys.argv[1:]]) + '\\n')\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config]
    cold = subprocess.run([*map(str, launch), program, "a b"], capture_output=True, text=True, check=True)
    warm = warm_python.launch(config, [program, "a b"])
    cold_ranks, warm_ranks = (sorted(map(json.loads, done.stdout.splitlines()), key=str) for done in (cold, warm))
    assert warm_ranks == cold_ranks
    assert len(warm_ranks) == 2


def test_a_rank_that_fails_ends_the_others(warm_python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import os, sys, time\nsys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)\n")
    assert warm_python.launch(TWO, [program]).returncode == 3
