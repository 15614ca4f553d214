"""A fork server: a Python that has imported the frameworks and forks for each program, so that tests skip the imports.

In: what `subprocess.run([sys.executable, ...])` would take. Out: exit code, stdout and stderr of a separate process with
its own arguments, environment, working directory and session. Importing `qwen_ner.training.run` takes 5 CPU seconds, a
fork a few milliseconds.

    from warm_python import warm_python
    done = warm_python.run([sys.executable, "-m", "qwen_ner", "train", recipe], env=..., cwd=...)   # subprocess.run
    server = warm_python.start([sys.executable, "-m", "qwen_ner", "serve", folder], stderr=PIPE)    # subprocess.Popen
    done = warm_python.launch(config, ["-m", "qwen_ner", "train", recipe])                          # accelerate launch

Libraries read some variables only when they are imported (`AT_IMPORT`): a program whose values differ from this
process's gets a cold start. Where the cold start itself is under test (what `--help` loads, the launcher), use
`subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen  # by name: test_benchmarks.py puts forks in the place of the attribute
from typing import Any

AT_IMPORT = (
    "HF_",
    "TRANSFORMERS_",
    "CUDA_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "MALLOC_",
    "LD_",
    "PYTHON",
    "TORCH",
)
"""Prefixes of variables that Python or a library reads when it starts."""

ANYTIME = {"HF_TOKEN", "PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR"}
"""Exceptions, read when they are used. (The server adds the entries of PYTHONPATH itself.)"""

MESSAGE = 1 << 20


class WarmPython:
    """The client of one server process, which starts on first use. Not thread-safe."""

    def __init__(self) -> None:
        self._server: Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._environment = dict(os.environ)

    def run(
        self, command: Sequence[Any], *, timeout: float = 200, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run(command, capture_output=True, text=True, ...)`."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check:
            done.check_returncode()
        return done

    def start(
        self,
        command: Sequence[Any],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdout: Any = None,
        stderr: Any = None,
    ) -> WarmProcess | Popen[str]:
        """As `subprocess.Popen(command, text=True, start_new_session=True, stdin=DEVNULL, ...)`.

        `command` is `[sys.executable, "-m", MODULE, ...]`, `[sys.executable, "-c", CODE, ...]` or
        `[sys.executable, FILE, ...]`.
        """
        args = [str(part) for part in command]
        if args[0] != sys.executable:
            raise ValueError(f"{args[0]} is not {sys.executable}")
        wanted = dict(os.environ if env is None else env)
        if _at_import(wanted) != _at_import(self._environment):
            return Popen(
                args, env=wanted, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True,
                start_new_session=True,
            )  # fmt: skip
        return self._fork(args, wanted, str(cwd or Path.cwd()), stdout, stderr)

    def launch(
        self,
        config: Path,
        program: Sequence[Any],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 200,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """As `accelerate launch --config_file CONFIG *PROGRAM` on one host, without the launcher.

        Each rank is a fork with the environment that accelerate and torchrun would give it; all ranks write to the same
        stdout and stderr. If one fails, the others are killed and its exit code is returned.
        """
        variables, arguments, ranks = read_launch(config, [str(part) for part in program])
        pipes = [os.pipe(), os.pipe()]
        out, err = (os.fdopen(writing, "w") for _, writing in pipes)
        processes = [
            self.start([sys.executable, *arguments], env={**(os.environ if env is None else env), **variables, **rank},
                       stdout=out, stderr=err, **options)
            for rank in ranks
        ]  # fmt: skip
        out.close()
        err.close()
        texts = ["", ""]

        def read(at: int) -> None:
            with os.fdopen(pipes[at][0], encoding="utf-8") as stream:
                texts[at] = stream.read()

        readers = [threading.Thread(target=read, args=(at,)) for at in (0, 1)]
        for reader in readers:
            reader.start()
        end, code = time.monotonic() + timeout, 0
        while None in (codes := [process.poll() for process in processes]):
            code = code or next(filter(None, codes), 0)
            if code or time.monotonic() > end:
                for process in processes:
                    process.kill()
            time.sleep(0.02)
        for reader in readers:
            reader.join()
        if not code and time.monotonic() > end:
            raise subprocess.TimeoutExpired(list(program), timeout)
        code = code or next(filter(None, codes), 0)
        return subprocess.CompletedProcess(list(program), code, *texts)

    def _serve(self) -> socket.socket:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE)
        self._server = Popen(
            [sys.executable, __file__, str(theirs.fileno())], env=self._environment, stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()], start_new_session=True,
        )  # fmt: skip
        theirs.close()
        return self._control

    def _fork(self, args: list[str], env: dict[str, str], cwd: str, stdout: Any, stderr: Any) -> WarmProcess:
        control = self._control or self._serve()
        ends: dict[str, Any] = {}
        handed = [os.open(os.devnull, os.O_RDONLY)]
        opened = list(handed)
        for name, wanted in (("stdout", stdout), ("stderr", stderr)):
            if wanted == subprocess.PIPE:
                reading, writing = os.pipe()
                ends[name] = os.fdopen(reading, encoding="utf-8")
                opened.append(writing)
                handed.append(writing)
            elif wanted == subprocess.STDOUT:
                handed.append(handed[1])
            else:
                handed.append({"stdout": 1, "stderr": 2}[name] if wanted is None else wanted.fileno())
        ours, theirs = socket.socketpair()
        opened.append(theirs.detach())
        request = json.dumps({"args": args[1:], "env": env, "cwd": cwd}).encode("utf-8", "surrogateescape")
        socket.send_fds(control, [request], [*handed, opened[-1]])
        for number in opened:
            os.close(number)
        return WarmProcess(args, ours, **ends)

    def close(self) -> None:
        if self._server is not None and self._control is not None:
            self._control.close()
            self._server.wait(30)
            self._server = self._control = None


warm_python = WarmPython()
atexit.register(warm_python.close)


def read_launch(config: Path, program: list[str]) -> tuple[dict[str, str], list[str], list[dict[str, str]]]:
    """The variables that accelerate sets, Python's arguments, and the own variables of each rank on this host."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(config), *program]))
    if args.num_processes == 1:
        command, made = prepare_simple_launcher_cmd_env(args)
        ranks: list[dict[str, str]] = [{}]
        arguments = command[1:]
    else:
        made = prepare_multi_gpu_env(args)
        here, host = args.num_processes // args.num_machines, args.machine_rank or 0
        ranks = [
            {"RANK": str(host * here + rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(args.num_processes),
             "LOCAL_WORLD_SIZE": str(here), "GROUP_RANK": str(host), "MASTER_ADDR": args.main_process_ip or "127.0.0.1",
             "MASTER_PORT": str(args.main_process_port)}
            for rank in range(here)
        ]  # fmt: skip
        arguments = [*(["-m"] if args.module else []), args.training_script, *args.training_script_args]
    return {name: value for name, value in made.items() if os.environ.get(name) != value}, arguments, ranks


def _at_import(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_IMPORT) and name not in ANYTIME}


class WarmProcess:
    """One fork, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, args: list[str], replies: socket.socket, stdout: Any = None, stderr: Any = None) -> None:
        self.args, self.stdout, self.stderr = args, stdout, stderr
        self.returncode: int | None = None
        self._replies = replies.makefile("r", encoding="ascii")
        self._socket = replies
        pid = self._replies.readline()
        if not pid:
            raise RuntimeError("the fork server has ended; its error is in stderr")
        self.pid = int(pid)

    def __enter__(self) -> WarmProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._socket], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._replies.readline())
            self._replies.close()
            self._socket.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both pipes to the end and wait for the process."""
        end = None if timeout is None else time.monotonic() + timeout
        texts: dict[str, str] = {}

        def read(name: str, stream: Any) -> None:
            texts[name] = stream.read()

        if not hasattr(self, "_readers"):
            streams = {"stdout": self.stdout, "stderr": self.stderr}
            self._texts = texts
            self._readers = [
                threading.Thread(target=read, args=(name, stream), daemon=True)
                for name, stream in streams.items()
                if stream is not None and not stream.closed
            ]
            for reader in self._readers:
                reader.start()
        for reader in self._readers:
            reader.join(None if end is None else max(0.0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        return self._texts.get("stdout", ""), self._texts.get("stderr", "")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


COMMON = ("accelerate", "datasets", "peft", "transformers.models.qwen2.modeling_qwen2", "qwen_ner.training.run",
          "qwen_ner.inference.extractor")  # fmt: skip
EXTRA = ("fastapi", "uvicorn", "optuna")
"""What the commands import."""


def import_all() -> None:
    for name in COMMON:
        importlib.import_module(name)
    for name in EXTRA:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def serve(control: socket.socket) -> list[str]:
    """Fork for each request until the client closes its end. Returns in the forks only: the arguments of Python."""
    watched: dict[int, tuple[int, socket.socket]] = {}  # a process file: its pid, and where its exit is reported
    while True:
        for ready in select.select([control, *watched], [], [])[0]:
            if ready is not control:
                pid, replies = watched.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(ready)
                with contextlib.suppress(BrokenPipeError):
                    replies.sendall(f"{code}\n".encode())
                replies.close()
                continue
            message, numbers, _, _ = socket.recv_fds(control, MESSAGE, 4)
            if not message:
                for pid, _ in watched.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            pid = os.fork()
            if not pid:
                control.close()
                for number, (_, replies) in watched.items():
                    os.close(number)
                    replies.close()
                return become(json.loads(message), numbers)
            replies = socket.socket(fileno=numbers.pop())
            replies.sendall(f"{pid}\n".encode())
            watched[os.pidfd_open(pid)] = pid, replies
            for number in numbers:
                os.close(number)


def become(request: dict[str, Any], numbers: list[int]) -> list[str]:
    """Give this fork the session, streams, folder and environment of a new process; return its arguments."""
    os.setsid()
    for place, number in enumerate(numbers[:3]):
        os.dup2(number, place)
    for number in {*numbers} - {0, 1, 2}:
        os.close(number)
    os.chdir(request["cwd"])
    for name in set(os.environ) - set(request["env"]):
        del os.environ[name]
    os.environ.update(request["env"])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in given if path and path not in sys.path[1:]]  # the first is the program's
    return list(request["args"])


def interpret(args: list[str]) -> None:
    """What `python *args` does."""
    if args[0] == "-c":
        sys.argv = ["-c", *args[2:]]
        sys.path[0] = ""
        exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
    elif args[0] == "-m":
        sys.argv = ["-m", *args[2:]]
        sys.path[0] = os.getcwd()
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = args
        sys.path[0] = str(Path(args[0]).resolve().parent)
        runpy.run_path(args[0], run_name="__main__")


def serve_and_interpret() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    import_all()
    gc.collect()
    gc.freeze()  # a collection in a fork would touch, and so copy, every object of the imports
    interpret(serve(control))


if __name__ == "__main__":
    try:
        serve_and_interpret()
    except Exception:
        traceback.print_exc()
        sys.exit(1)
