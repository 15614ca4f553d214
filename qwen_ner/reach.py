"""Whether a hub of models answers, found out before anything is downloaded from it.

In: its address. Out: None, or after some seconds why it does not answer: the clients of the hubs try again for minutes.
Knows nothing of models and data sets.
"""

from __future__ import annotations

import threading
import time

from .entities import NerError

PATIENCE = 6.0
"""Seconds that a hub has to answer."""

REMEMBERED = 60.0
"""Seconds for which a hub that did not answer is not asked again: a training needs several things from it."""

WAYS_OUT = (
    "set HF_ENDPOINT to a mirror that you can reach, give modelscope:user/name for a model of ModelScope, or give a "
    "folder"
)

_silent: dict[str, tuple[float, str]] = {}


def silence(endpoint: str) -> str | None:
    """Why nothing answers at `endpoint`, an address with http:// or https://; None if something does, whatever it says.

    A proxy that the environment names is used.
    """
    asked, reason = _silent.get(endpoint, (-REMEMBERED, ""))
    if time.monotonic() - asked < REMEMBERED:
        return reason
    outcome = [f"no answer within {PATIENCE:.0f} seconds"]

    def ask() -> None:
        from huggingface_hub import get_session

        try:
            get_session().head(endpoint, timeout=PATIENCE, follow_redirects=False)
            outcome[0] = ""
        except Exception as error:  # of the sockets, of httpx and of TLS: all of them mean the same
            outcome[0] = str(error) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(PATIENCE)
    reason = outcome[0]  # read once: the thread may still write
    if not reason:
        return None
    _silent[endpoint] = (time.monotonic(), reason)
    return reason


def unreachable(name: str, endpoint: str, reason: str, remedy: str = WAYS_OUT) -> NerError:
    """The error for `name`, which is not on this machine and cannot be downloaded from `endpoint`."""
    return NerError(f"is not on this machine, and {endpoint} cannot be reached ({reason})", place=name, remedy=remedy)
