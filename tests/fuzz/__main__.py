"""python -m tests.fuzz [--inputs N] [--seed S] [--seconds T] [TARGET …]

Outside of continuous integration. Prints a line a target: how many inputs, and what broke it.
"""

import argparse
import logging
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.run import CHUNK, run
from fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Run the fuzz targets.")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target")
    parser.add_argument("--seed", type=int, default=1, help="of the first inputs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop each target after so long")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    broken = 0
    for name in options.targets or TARGETS:
        started, done, fault = time.monotonic(), 0, ""
        while done < options.inputs and not fault and time.monotonic() - started < options.seconds:
            count = min(CHUNK, options.inputs - done)
            try:
                run(name, count, options.seed + done)
            except Exception:
                fault = traceback.format_exc()
            done += count
        broken += bool(fault)
        print(
            f"{name}: {done:,} inputs in {time.monotonic() - started:.0f} s, {'BROKEN' if fault else 'nothing found'}"
        )
        if fault:
            print(fault.encode(errors="backslashreplace").decode(), flush=True)
        sys.stdout.flush()
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
