"""A stand-in for `accelerate launch` in commands that a process under test starts itself: its ranks are forks.

    with launcher() as accelerate_launch:
        sweep["command"][:2] = accelerate_launch

Run as a program it hands its arguments, environment and folder to the test, which calls `warm_python.launch`, and says and
exits with what that gives. The launcher itself is tested in test_cli.py, test_run.py and distributed/.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread


@contextmanager
def launcher() -> Iterator[list[str]]:
    """The words of a command that take the place of `accelerate launch`."""
    name = f"launcher-{os.getpid()}-{os.urandom(4).hex()}"
    with socket.create_server(f"\0{name}", family=socket.AF_UNIX) as server:
        thread = Thread(target=_serve, args=[server], daemon=True)
        thread.start()
        yield [sys.executable, "-S", __file__, name]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(server: socket.socket) -> None:
    from warm_python import warm_python

    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # shut down
            return
        with connection, connection.makefile("rw", encoding="utf-8") as stream:
            (_, config, *program), env, cwd = json.loads(stream.readline())
            done = warm_python.launch(Path(cwd, config), program, env=env, cwd=cwd)
            print(json.dumps([done.stdout, done.stderr, done.returncode]), file=stream, flush=True)


def _ask(name: str, arguments: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{name}")
        with connection.makefile("rw", encoding="utf-8") as stream:
            print(json.dumps([arguments, dict(os.environ), os.getcwd()]), file=stream, flush=True)
            out, err, code = json.loads(stream.readline())
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(code)


if __name__ == "__main__":
    _ask(sys.argv[1], sys.argv[2:])
