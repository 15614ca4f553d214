"""What one parameter of a sweep may be: wandb's distributions in Optuna's terms.

In: one entry of `parameters`. Out: a `Space`, or ValueError. Knows nothing of recipes.

Reference: https://github.com/wandb/sweeps, src/sweeps/params.py, and the schema beside it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial

_RANGES = ("uniform", "log_uniform", "log_uniform_values")
FIELDS = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    **dict.fromkeys(("int_uniform", *_RANGES, "inv_log_uniform", "inv_log_uniform_values"), ("min", "max")),
    **dict.fromkeys([f"q_{kind}" for kind in _RANGES], ("min", "max", "q")),
    **dict.fromkeys(("normal", "log_normal"), ("mu", "sigma")),
    **dict.fromkeys(("q_normal", "q_log_normal"), ("mu", "sigma", "q")),
    "beta": ("a", "b"),
    "q_beta": ("a", "b", "q"),
}
"""wandb's distributions and their fields."""

SUPPORTED = ("int_uniform", "uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values")
"""The ranges that Optuna can draw from."""


@dataclass(frozen=True)
class Space:
    """One of `values`; or a number from `low` to `high`, both included, uniform or uniform in its logarithm.

    With `step`, a number is rounded to a multiple of it, as wandb does. `unsupported` says why Optuna cannot draw it.
    """

    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    unsupported: str = ""

    @property
    def probes(self) -> Sequence[Any]:
        """Values to try on a recipe: all of a list, the ends of a range."""
        return self.values or (self.value(self.low), self.value(self.high))

    @property
    def grid(self) -> Sequence[Any]:
        """All values, in wandb's order; empty where there is no end of them."""
        if self.values:
            return [_storable(value) for value in self.values]
        return range(int(self.low), int(self.high) + 1) if self._whole else ()

    @property
    def _whole(self) -> bool:
        return self.step == 1 and not self.log and isinstance(self.low, int)

    def suggest(self, trial: Trial, name: str) -> Any:
        """Have Optuna draw a value."""
        if self.values:
            return trial.suggest_categorical(name, [_storable(value) for value in self.values])
        if self._whole:
            return trial.suggest_int(name, int(self.low), int(self.high))
        return self.value(trial.suggest_float(name, self.low, self.high, log=self.log))

    def value(self, drawn: Any) -> Any:
        """What the trial gets of what Optuna drew.

        >>> Space(low=8, high=64, step=8, log=True).value(21.3)
        24
        """
        if not self.step:
            return drawn
        rounded = round(drawn / self.step) * self.step
        return rounded if isinstance(self.step, int) else float(f"{rounded:.12g}")


def _storable(value: Any) -> Any:
    """A value as Optuna can store it: a list or mapping as its text, which is what the command line carries anyway."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def unknown(key: str, known: Collection[str]) -> str:
    """A fault: a key that is not read, with the nearest one that is.

    >>> unknown("mim", ["min", "max"])
    'mim: unknown; did you mean min?'
    """
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key}: unknown; " + (f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}")


def read_parameter(spec: Any) -> Space:
    """Read one entry of `parameters`. Raises ValueError for a fault.

    >>> read_parameter({"distribution": "normal", "mu": 0.1}).unsupported
    'Optuna has no normal; use uniform, log_uniform_values or values'
    """
    if not isinstance(spec, dict):
        raise ValueError(f"{spec} is not a mapping; write value: {spec}")
    if "parameters" in spec:
        raise ValueError("a recipe has no nested parameters; list the mappings to try under values")
    kind = spec.get("distribution") or _imply(spec)
    if kind not in FIELDS:
        raise ValueError(f"distribution: {kind} is none of {', '.join(FIELDS)}")
    if strange := [key for key in spec if key not in (*FIELDS[kind], "distribution")]:
        raise ValueError(unknown(strange[0], FIELDS[kind]))
    if kind == "constant":
        return Space(_values([spec["value"]] if "value" in spec else None))
    if kind.startswith("categorical"):
        uneven = "Optuna draws all values alike; remove probabilities" if "probabilities" in spec else ""
        return Space(_values(spec.get("values")), unsupported=uneven)
    if kind not in SUPPORTED:
        return Space((1,), unsupported=f"Optuna has no {kind}; use uniform, log_uniform_values or values")
    low, high, q = (_number(spec, key, default) for key, default in (("min", None), ("max", None), ("q", 1)))
    if low >= high:
        raise ValueError(f"min {low} is not below max {high}")
    if q <= 0 or ("log" in kind and low <= 0):
        raise ValueError(f"{f'q {q}' if q <= 0 else f'min {low}'} is not above 0")
    if kind == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError("int_uniform needs whole numbers for min and max")
    step = q if kind == "int_uniform" or kind.startswith("q_") else None
    return Space(low=low, high=high, step=step, log="log" in kind)


def _imply(spec: dict[str, Any]) -> str:
    """The distribution that wandb takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" not in spec or "max" not in spec:
        raise ValueError("needs value, values, or min and max")
    return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"


def _values(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError("needs value, or a non-empty list of values")
    if len({str(value) for value in values}) < len(values):
        raise ValueError(f"values repeat in {values}")
    return tuple(values)


def _number(spec: dict[str, Any], key: str, default: float | None) -> float:
    value = spec.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        yaml = "; YAML reads 1.0e-4 as a number, 1e-4 as text" if isinstance(value, str) else ""
        raise ValueError(f"{key}: {value} is not a number{yaml}")
    return value
