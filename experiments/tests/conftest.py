"""The fixtures of the package's own tests, and the scripts beside them."""

import sys
from pathlib import Path

from conftest import *  # noqa: F403

for folder in ("benchmarks", "experiments"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / folder))
