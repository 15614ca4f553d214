"""What one parameter of a sweep may be: wandb's distributions, in terms that Optuna has.

In: one entry of `parameters`. Out: a `Choice` or a `Range`; or why Optuna cannot draw it. Knows nothing of recipes.

wandb's own sampler is the reference: https://github.com/wandb/sweeps, src/sweeps/params.py, with the schema beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FIELDS = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "inv_log_uniform": ("min", "max"),
    "inv_log_uniform_values": ("min", "max"),
    "q_log_uniform": ("min", "max", "q"),
    "q_log_uniform_values": ("min", "max", "q"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
    "beta": ("a", "b"),
    "q_beta": ("a", "b", "q"),
}
"""wandb's distributions, and what each is told by."""


@dataclass(frozen=True)
class Choice:
    """One of `values`, each as likely as any other."""

    values: tuple[Any, ...]

    def probes(self) -> Sequence[Any]:
        return self.values

    def grid(self) -> Sequence[Any]:
        return self.values

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([choice_of(value) for value in self.values])

    def __str__(self) -> str:
        return " | ".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included: evenly, evenly in its logarithm, or in steps from `low` on."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def probes(self) -> Sequence[float]:
        return (self.low, self.high)

    def grid(self) -> Sequence[float] | None:
        """All values, where wandb's grid goes through them: whole numbers, one by one."""
        return range(int(self.low), int(self.high) + 1) if self.step == 1 and not self.log else None

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.step, int):
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=self.step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def __str__(self) -> str:
        how = " evenly in the logarithm" if self.log else ""
        return f"{self.low:.6g} to {self.high:.6g}{how}{f' in steps of {self.step:g}' if self.step else ''}"


def choice_of(value: Any) -> Any:
    """`value` as Optuna can store it: a list or mapping by its text, which is what the command line gets of it."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def read_parameter(spec: Any) -> Choice | Range | str:
    """One entry of `parameters`; a text says why Optuna cannot draw what wandb can. Raises ValueError for a fault.

    >>> print(read_parameter({"min": 8, "max": 64}))
    8 to 64 in steps of 1
    >>> print(read_parameter({"distribution": "log_uniform", "min": -11.5, "max": -6.9}))  # exponents of e
    1.01301e-05 to 0.00100779 evenly in the logarithm
    >>> read_parameter({"distribution": "normal", "mu": 0.1})
    'Optuna has no normal; use uniform, log_uniform_values or values'
    """
    if not isinstance(spec, dict):
        raise ValueError(f"{spec} is not a mapping; write value: {spec}")
    if "parameters" in spec:
        return "Optuna has no nested parameters; write the mappings to try under values"
    kind = spec.get("distribution") or _implied(spec)
    if kind not in FIELDS:
        raise ValueError(f"distribution: {kind} is none of {', '.join(FIELDS)}")
    strange = [key for key in spec if key not in (*FIELDS[kind], "distribution")]
    if strange:
        raise ValueError(f"{', '.join(strange)}: not read with {kind}, which has {', '.join(FIELDS[kind])}")
    if kind == "constant":
        if "value" not in spec:
            raise ValueError("constant needs value")
        return Choice((spec["value"],))
    if kind.startswith("categorical"):
        return _choice(kind, spec)
    if "min" not in FIELDS[kind]:
        return f"Optuna has no {kind}; use uniform, log_uniform_values or values"
    return _range(kind, _number(spec, "min"), _number(spec, "max"), _number(spec, "q", 1))


def _implied(spec: dict[str, Any]) -> str:
    """The distribution that wandb takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" not in spec or "max" not in spec:
        raise ValueError("needs value, values, or min and max")
    return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"


def _choice(kind: str, spec: dict[str, Any]) -> Choice | str:
    values = spec.get("values")
    if not isinstance(values, list) or not values:
        raise ValueError("values must be a list of one or more")
    texts = [str(value) for value in values]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} stands twice among the values")
    if kind == "categorical_w_probabilities":
        return "Optuna draws all values alike; leave the probabilities out"
    return Choice(tuple(values))


def _number(spec: dict[str, Any], key: str, default: float | None = None) -> float:
    value = spec.get(key, default)
    if isinstance(value, str) and _is_number(value):
        raise ValueError(f"{key}: {value} is a text to YAML; write {yaml.safe_dump(float(value)).split()[0]}")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key}: {value} is not a number")
    return value


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _range(kind: str, low: float, high: float, q: float) -> Range | str:
    if low >= high:
        raise ValueError(f"min {low} is not below max {high}")
    if q <= 0:
        raise ValueError(f"q: {q} is not above 0")
    if kind.endswith("_values") and low <= 0:
        raise ValueError(f"min {low} has no logarithm; it must be above 0")
    if kind == "int_uniform":
        if not (isinstance(low, int) and isinstance(high, int)):
            raise ValueError("int_uniform needs whole numbers for min and max")
        return Range(low, high, step=1)
    if kind == "uniform":
        return Range(low, high)
    if kind == "q_uniform":
        return _stepped(low, high, q)
    if kind == "inv_log_uniform":  # log(1/x) is even between min and max
        low, high = -high, -low
    if not kind.endswith("_values"):  # min and max are exponents
        if high > _LARGEST:
            raise ValueError(f"max {high}: {kind} takes exponents of e; for plain numbers there is {kind}_values")
        low, high = math.exp(low), math.exp(high)
    if not kind.startswith("q_"):
        return Range(low, high, log=True)
    if q != 1 or round(low) < 1:
        return f"Optuna has no {kind} but in steps of 1 from 1 on; use log_uniform_values, or values"
    return Range(round(low), round(high), step=1, log=True)


_LARGEST = math.log(1e300)


def _stepped(low: float, high: float, q: float) -> Range | str:
    """wandb rounds to multiples of q; Optuna counts from min in steps of q. They meet where the ends are multiples."""
    first, last = round(low / q), round(high / q)
    if not (math.isclose(first * q, low, abs_tol=1e-12) and math.isclose(last * q, high, abs_tol=1e-12)):
        return f"Optuna steps from min, wandb through the multiples of q: min and max must be multiples of {q}"
    if all(float(number).is_integer() for number in (low, high, q)):
        return Range(int(low), int(high), step=int(q))
    return Range(low, high, step=q)
