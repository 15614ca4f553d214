"""What one parameter of a sweep may be: wandb's distributions in Optuna's terms.

In: one entry of `parameters`. Out: a `Space`, or `NerError`. Knows nothing of recipes.

Reference: https://github.com/wandb/sweeps, src/sweeps/params.py, and the schema beside it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..entities import NerError

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
    unsupported: NerError | None = None

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


def unknown(key: str, known: Collection[str]) -> NerError:
    """A fault: a key that is not read, with the nearest one that is.

    >>> str(unknown("mim", ["min", "max"]))
    'mim: unknown; did you mean min?'
    """
    near = difflib.get_close_matches(key, known, n=1)
    return NerError("unknown", place=key, remedy=f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def nest(place: str, fault: NerError) -> NerError:
    """`fault` as one of the mapping at `place`.

    >>> str(nest("metric", unknown("gaol", ["name", "goal"])))
    'metric.gaol: unknown; did you mean goal?'
    """
    inner = f"{place}.{fault.place}" if fault.place else place
    return NerError(fault.what, value=fault.value, place=inner, remedy=fault.remedy)


def read_parameter(spec: Any) -> Space:
    """Read one entry of `parameters`. Raises `NerError` for a fault.

    >>> str(read_parameter({"distribution": "normal", "mu": 0.1}).unsupported)
    'Optuna has no normal; use uniform, log_uniform_values or values'
    """
    if not isinstance(spec, dict):
        key = "values" if isinstance(spec, list) else "value"
        raise NerError("not a mapping", value=spec, remedy=f"write {key}: {'null' if spec is None else spec}")
    if "parameters" in spec:
        raise NerError("a recipe has no nested parameters", remedy="list the mappings to try under values")
    kind = spec.get("distribution") or _imply(spec)
    if kind not in [*FIELDS]:  # a list: what YAML has there may not be hashable
        near = difflib.get_close_matches(str(kind), FIELDS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(FIELDS)}"
        raise NerError("unknown", value=kind, place="distribution", remedy=remedy)
    if strange := [str(key) for key in spec if key not in (*FIELDS[kind], "distribution")]:
        raise unknown(strange[0], FIELDS[kind])
    if kind == "constant":
        return Space(_values([spec["value"]] if "value" in spec else None))
    if kind.startswith("categorical"):
        return _categorical(_values(spec.get("values")), spec.get("probabilities"))
    if kind not in SUPPORTED:
        return _unsupported(kind, spec)
    low, high, q = (_number(spec, key, default) for key, default in (("min", None), ("max", None), ("q", 1)))
    if low >= high:
        raise NerError(f"not below max, which is {high}", value=low, place="min")
    if q <= 0 or ("log" in kind and low <= 0):
        raise NerError("not above 0", value=q if q <= 0 else low, place="q" if q <= 0 else "min")
    if kind == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        raise NerError("int_uniform needs whole numbers for min and max", value=(low, high))
    step = q if kind == "int_uniform" or kind.startswith("q_") else None
    space = Space(low=low, high=high, step=step, log="log" in kind)
    if space.value(low) == space.value(high):
        raise NerError(f"every value would be rounded to {space.value(low)}", value=q, place="q", remedy="lower it")
    return space


def _categorical(values: tuple[Any, ...], probabilities: Any) -> Space:
    if probabilities is None:
        return Space(values)
    shares = probabilities if isinstance(probabilities, list) else []
    if len(shares) != len(values) or not all(_is_number(share) and share >= 0 for share in shares):
        raise NerError(f"needs a list of {len(values)} numbers", value=probabilities, place="probabilities")
    uneven = NerError("Optuna draws all values alike", remedy="remove probabilities")
    return Space(values, unsupported=uneven)


def _unsupported(kind: str, spec: dict[str, Any]) -> Space:
    """What wandb can draw and Optuna cannot, its fields checked all the same."""
    given = {key: _number(spec, key, None) for key in FIELDS[kind] if key in spec}
    for key in {"sigma", "q", "a", "b"} & given.keys():
        if given[key] <= 0:
            raise NerError("not above 0", value=given[key], place=key)
    if "min" in FIELDS[kind] and not given.get("min", -math.inf) < given.get("max", math.inf):
        raise NerError(f"not below max, which is {given['max']}", value=given["min"], place="min")
    remedy = "use uniform, log_uniform_values or values"
    return Space((1,), unsupported=NerError(f"Optuna has no {kind}", remedy=remedy))


def _imply(spec: dict[str, Any]) -> str:
    """The distribution that wandb takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" not in spec or "max" not in spec:
        known = {field for fields in FIELDS.values() for field in fields} | {"distribution"}
        if strange := [str(key) for key in spec if key not in known]:
            raise unknown(strange[0], ("value", "values", "min", "max", "distribution"))
        raise NerError("needs value, values, or min and max")
    return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"


def _values(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise NerError("needs value, or a non-empty list of values", value=values)
    if len({str(int(value) if _is_number(value) and value == int(value) else value) for value in values}) < len(values):
        raise NerError("values repeat", value=values)
    return tuple(values)


def _number(spec: dict[str, Any], key: str, default: float | None) -> float:
    value = spec.get(key, default)
    if value is None or not _is_number(value):
        remedy = "YAML reads 1.0e-4 as a number, 1e-4 as text" if isinstance(value, str) else None
        raise NerError("not a number", value=value, place=key, remedy=remedy)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # nor inf or nan


def is_whole(value: Any, least: int) -> bool:
    """Whether this is a whole number from `least` on; True is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
