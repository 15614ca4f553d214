"""What can be known of the images without a Docker: what their file names is there, and their command is ours."""

import fnmatch
import json
import re
import sys

import pytest
from rows import ROOT

from qwen_ner import cli

LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
STEPS = [(word, rest) for word, _, rest in (line.partition(" ") for line in LINES) if word.isupper()]
STAGES = [rest.split() for word, rest in STEPS if word == "FROM"]
COPIED = {name for word, rest in STEPS if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def arguments(name):
    return [rest.partition("=")[2] for word, rest in STEPS if word == "ARG" and rest.partition("=")[0] == name]


def test_what_is_copied_is_there_and_reaches_the_builder():
    assert IGNORED[0] == "*"
    assert {name.removeprefix("!") for name in IGNORED if name.startswith("!")} == COPIED
    assert all((ROOT / name).exists() for name in COPIED)
    assert any(fnmatch.fnmatch("qwen_ner/data/__pycache__", name) for name in IGNORED if not name.startswith("!"))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_what_the_installation_needs_is_copied_and_its_extras_exist():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"pyproject.toml", "constraints.txt", "qwen_ner", project["readme"], *project["license-files"]} <= COPIED
    links = [path.readlink().name for path in (ROOT / "qwen_ner").iterdir() if path.is_symlink()]
    assert {*links} <= COPIED
    for extras in arguments("EXTRAS"):
        assert {*extras.split(",")} <= project["optional-dependencies"].keys()
    assert "serve" in arguments("EXTRAS")[0].split(",")
    for word, rest in STEPS:
        if word == "RUN" and "pip install" in rest:
            assert "-c constraints.txt" in rest


def test_there_is_an_image_for_cpu_and_one_for_cuda_of_stages_that_exist():
    names = [stage[-1] for stage in STAGES]
    assert {"cpu", "cuda"} <= {*names}
    assert len({*names}) == len(names)
    bases = [stage[0] for stage in STAGES]
    for at, base in enumerate(bases):
        assert base == "${PYTHON}" or base in names[:at]
    for word, rest in STEPS:
        if word == "COPY" and "--from" in rest:
            assert re.search(r"--from=(\S+)", rest)[1] in names
    assert arguments("PYTHON") == ["python:3.11-slim"], "constraints.txt is of Python 3.11"


def test_it_runs_as_a_user_without_rights_and_serves_what_is_mounted():
    user = [rest for word, rest in STEPS if word == "USER"][-1]
    assert user.isdecimal(), "a cluster can check that it is not root"
    assert int(user) > 0
    (entry,) = (json.loads(rest) for word, rest in STEPS if word == "ENTRYPOINT")
    (command,) = (json.loads(rest) for word, rest in STEPS if word == "CMD")
    assert entry == ["qwen-ner"]
    options = cli.build_parser(command[:1]).parse_args(command)
    assert options.command == "serve"
    assert [str(options.port)] == [rest for word, rest in STEPS if word == "EXPOSE"]
    assert options.host == "0.0.0.0"
    assert any(f" {options.model} " in f"{rest} " for word, rest in STEPS if word == "RUN" and "mkdir" in rest)
