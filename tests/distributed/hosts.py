"""What launches processes: accelerate, and two hosts on one machine, which are network namespaces that a pair of veth joins."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from rows import ROOT
from warm_python import read_launch, warm_python

ADDRESSES = ("10.213.7.1", "10.213.7.2")

CONFIGS = ROOT / "accelerate_configs"
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
ON_HOST = """
import ctypes, os, sys
from warm_python import interpret
network = os.open("/run/netns/" + sys.argv[1], os.O_RDONLY)
if ctypes.CDLL(None, use_errno=True).setns(network, 0x40000000):  # CLONE_NEWNET
    sys.exit(os.strerror(ctypes.get_errno()))
interpret(sys.argv[2:])
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


def config_for_here(name: str, folder: Path, **changed: object) -> Path:
    """The shipped config `name` with two processes on the CPU, written into `folder`."""
    folder.mkdir(exist_ok=True)
    shipped = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    here = {**shipped, "num_processes": 2, "use_cpu": True, "mixed_precision": "no", **changed}
    path = folder / name
    path.write_text(yaml.safe_dump(here), encoding="utf-8")
    return path


class Hosts:
    """Runs a command on each host at once; the second cannot be reached but through the first's network."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def run(self, commands: Sequence[Sequence[object]], environments: Sequence[dict[str, str]], timeout: float = 300):
        """[(exit code, stdout, stderr)] of `commands[i]` on host i; whatever is left of them is killed."""
        processes = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, *map(str, command)], env=environment, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for name, command, environment in zip(self.names, commands, environments, strict=True)
        ]  # fmt: skip
        return self._ends(processes, timeout)

    def launch(
        self,
        configs: Sequence[Path],
        programs: Sequence[Sequence[object]],
        environments: Sequence[dict[str, str]],
        timeout: float = 300,
    ):
        """As `run` of `accelerate launch --config_file configs[i] *programs[i]`, one process a host: a fork each."""
        processes = []
        for name, config, program, environment in zip(self.names, configs, programs, environments, strict=True):
            variables, arguments, (rank,) = read_launch(config, [str(part) for part in program])
            command = [sys.executable, "-c", ON_HOST, name, *arguments]
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            processes.append(warm_python.start(command, env=environment | variables | rank, **streams))
        return self._ends(processes, timeout)

    @staticmethod
    def _ends(processes: Sequence[Any], timeout: float) -> list[tuple[int, str, str]]:
        try:
            said = [process.communicate(timeout=timeout) for process in processes]
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
        return [(process.returncode, *of) for process, of in zip(processes, said, strict=True)]


def unavailable() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if os.geteuid():
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need ip (Debian: apt-get install iproute2)"
    name = f"ner{os.getpid()}t"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"network namespaces cannot be made here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    names = [f"ner{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            _ip("-n", name, "link", "set", name, "up")
        yield Hosts(names)
    finally:
        for name in names:
            if Path("/run/netns", name).exists():
                _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
