"""Addresses where no hub answers."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def refusing() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def mute() -> Iterator[str]:
    """An address that accepts connections and never answers, as behind some firewalls."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
