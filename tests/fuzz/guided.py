"""python tests/fuzz/guided.py TARGET [libFuzzer's options, -runs=100000 …]

The same targets, their inputs chosen by what they reach in the code: with atheris (`pip install atheris`), which is no
requirement of this project.
"""

import logging
import sys
from pathlib import Path


def main() -> None:
    import atheris

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    with atheris.instrument_imports(include=["qwen_ner", "json", "yaml"]):
        from fuzz.targets import TARGETS
    from hypothesis import HealthCheck, given, settings

    target = TARGETS[sys.argv.pop(1)]
    logging.disable(logging.WARNING)

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def holds(drawn: object) -> None:
        target.law(drawn)

    atheris.Setup(sys.argv, holds.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
