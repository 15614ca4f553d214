"""Run targets: `inputs` drawn anew for each, the same for the same seed.

In: the name of a target. Out: nothing, or the smallest input found that breaks its law, as hypothesis reports it.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, seed, settings

from .targets import TARGETS

CHUNK = 2_000
"""Inputs that hypothesis draws at a time: it remembers all of them, to draw none twice."""


def run(name: str, inputs: int, first_seed: int = 0) -> None:
    """Raises what breaks the law of target `name`, with the smallest input that does."""
    target = TARGETS[name]
    for number, done in enumerate(range(0, inputs, CHUNK)):
        chosen = settings(
            max_examples=min(CHUNK, inputs - done),
            deadline=None,
            database=None,
            derandomize=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )

        @seed(first_seed + number)
        @chosen
        @given(target.inputs)
        def holds(drawn: object) -> None:
            target.law(drawn)

        holds()
