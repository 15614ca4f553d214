"""What a training frees goes back to the system, whatever lies beside it."""

import subprocess
import sys

import pytest

HOLES = """
import sys, torch
from qwen_ner.training.batches.cpu.malloc import set_pages
if sys.argv[1] == "set":
    set_pages()
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1024
first = torch.ones(30 << 18)  # 30 MiB: as it is freed, glibc takes what is smaller from its heap from now on
del first
before, kept, held = resident(), [], []
for _ in range(20):
    large = [torch.ones(20 << 18) for _ in range(2)]
    kept.append(torch.ones(1 << 16))  # of 256 KiB, behind them
    held += large
most = resident()
del large, held
print(most - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize("set_before", [True, False], ids=["set", "as it is"])
def test_freed_tensors_go_back(set_before):
    command = [sys.executable, "-c", HOLES, "set" if set_before else "not"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    most, after = map(int, done.stdout.split())
    assert most > 750
    if set_before:
        assert after < 50
    else:
        assert after > 700, "malloc gives them back by itself; pages.py can go"
