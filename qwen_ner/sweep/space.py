"""What one parameter of a sweep may be: wandb's distributions in Optuna's terms.

In: one entry of `parameters`. Out: a `Space`, or `NerError`. Knows nothing of recipes.

Reference: https://github.com/wandb/sweeps, src/sweeps/params.py, and the schema beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.formats.errors import nearest
from ..entities import NerError

if TYPE_CHECKING:
    from optuna import Trial

FIELDS = {
    "constant": ("value",),
    "categorical": ("values",),
    **dict.fromkeys(("int_uniform", "uniform", "log_uniform_values"), ("min", "max")),
    **dict.fromkeys(("q_uniform", "q_log_uniform_values"), ("min", "max", "q")),
}
"""The distributions that Optuna can draw from, and their fields."""

WANDB_ONLY = (
    *("categorical_w_probabilities", "normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta"),
    *("log_uniform", "q_log_uniform", "inv_log_uniform", "inv_log_uniform_values"),
)
"""wandb's other distributions, whose fields wandb checks."""


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
        return self.values or (range(int(self.low), int(self.high) + 1) if self._whole else ())

    @property
    def _whole(self) -> bool:
        return self.step == 1 and not self.log and isinstance(self.low, int)

    def suggest(self, trial: Trial, name: str) -> Any:
        """Have Optuna draw a value."""
        if self.values:
            return trial.suggest_categorical(name, self.values)
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


def unknown(key: str, known: Collection[str]) -> NerError:
    """A fault: a key that is not read, with the nearest one that is.

    >>> str(unknown("mim", ["min", "max"]))
    'mim: unknown; known: min, max; did you mean "min"?'
    """
    return NerError("unknown", place=key, remedy=f"known: {', '.join(known)}{nearest(key, known)}")


def nest(place: str, fault: NerError) -> NerError:
    """`fault` as one of the mapping at `place`.

    >>> str(nest("metric", NerError("unknown", place="gaol")))
    'metric.gaol: unknown'
    """
    inner = f"{place}.{fault.place}" if fault.place else place
    return NerError(fault.what, value=fault.value, place=inner, remedy=fault.remedy)


def read_parameter(spec: Any) -> Space:
    """Read one entry of `parameters`. Raises `NerError` for a fault.

    >>> str(read_parameter({"distribution": "normal", "mu": 0.1}).unsupported)
    'Optuna has no normal; use uniform, log_uniform_values or values'
    """
    if not isinstance(spec, dict):
        remedy = "write {value: …}, {values: [… , …]} or {min: …, max: …}"
        raise NerError("not a mapping", value="null" if spec is None else spec, remedy=remedy)
    kind = str(spec.get("distribution") or _imply(spec))
    if kind in WANDB_ONLY:
        remedy = "use uniform, log_uniform_values or values"
        return Space((1,), unsupported=NerError(f"Optuna has no {kind}", remedy=remedy))
    if kind not in FIELDS:
        remedy = f"choose from {', '.join((*FIELDS, *WANDB_ONLY))}{nearest(kind, FIELDS)}"
        raise NerError("unknown", value=kind, place="distribution", remedy=remedy)
    if strange := [str(key) for key in spec if key not in (*FIELDS[kind], "distribution")]:
        raise unknown(strange[0], FIELDS[kind])
    if missing := [field for field in FIELDS[kind] if field not in spec and field != "q"]:
        raise NerError(f"missing; {kind} needs it", place=missing[0], remedy="give value, values, or min and max")
    if kind in ("constant", "categorical"):
        return _list([spec["value"]] if kind == "constant" else spec["values"])
    return _range(kind, spec["min"], spec["max"], spec.get("q", 1))


def _imply(spec: dict[str, Any]) -> str:
    """The distribution that wandb takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    return "int_uniform" if isinstance(spec.get("min"), int) and isinstance(spec.get("max"), int) else "uniform"


def _list(values: Any) -> Space:
    """Optuna can store no list or mapping: it gets the text, which is what the command line carries anyway."""
    if not isinstance(values, list) or not values:
        raise NerError("not a list of values", value=values, place="values", remedy="give at least one")
    plain = (bool, int, float, str, type(None))
    return Space(tuple(value if isinstance(value, plain) else str(value) for value in values))


def _range(kind: str, low: Any, high: Any, q: Any) -> Space:
    types = int if kind == "int_uniform" else (int, float)
    for place, value in {"min": low, "max": high, "q": q}.items():
        number = isinstance(value, types) and not isinstance(value, bool) and abs(value) < 1e300  # nor nan
        if not number or (value <= 0 and (place == "q" or "log" in kind)):
            remedy = "give it above 0 for a logarithm or q; to YAML 1.0e-4 is a number, 1e-4 a text"
            raise NerError(f"not a number that {kind} takes", value=value, place=place, remedy=remedy)
    step = q if kind.startswith("q_") else 1 if kind == "int_uniform" else None
    space = Space(low=low, high=high, step=step, log="log" in kind)
    if space.value(low) >= space.value(high):
        raise NerError(f"not below max ({high})", value=low, place="min", remedy="raise max, or lower q")
    return space
