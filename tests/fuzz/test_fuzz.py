"""A thousand inputs for each target; `python -m tests.fuzz --inputs 100000` runs more."""

import pytest
from fuzz.run import run
from fuzz.targets import TARGETS

INPUTS = 1_000


@pytest.mark.parametrize("name", TARGETS)
def test_a_thousand_inputs_break_no_law(name):
    run(name, INPUTS)
