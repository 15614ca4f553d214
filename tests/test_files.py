"""A file is whole or as it was, and a lock is held by one process at a time and by no dead one."""

import json
import os
import re
import stat
import subprocess
import sys

import pytest
from rows import ROOT

from qwen_ner import files
from qwen_ner.entities import NerError
from qwen_ner.files import beside, install_line, lock, replace_attributes, write_json

HOLD = """
import os, sys, time
from pathlib import Path
from qwen_ner.files import lock

with lock(Path(sys.argv[1]), owner=f"process {os.getpid()}"):
    if os.fork() == 0:  # as a data loader's worker, which outlives a killed parent for a while
        os.close(1)
        time.sleep(30)
        os._exit(0)
    print("held", flush=True)
    time.sleep(30)
"""


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"f1": 1})
    with pytest.raises(TypeError):
        write_json(path, {"f1": object()})
    assert json.loads(path.read_text()) == {"f1": 1}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_the_longest_name_there_is_can_be_written(tmp_path):
    path = tmp_path / f"{'结' * 80}.json"  # 245 of 255 bytes
    write_json(path, 1)
    assert json.loads(path.read_text()) == 1


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    path = tmp_path / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(NerError) as caught, lock(path):
            pass
        assert caught.value.what == f"in use by process {holder.pid}"
        assert caught.value.place == tmp_path
        holder.kill()
        holder.wait()
        try:
            with lock(path, owner="the next"):
                pass
            assert path.read_text() == "the next"
        finally:
            os.killpg(holder.pid, 9)


def test_an_error_inside_of_a_lock_passes_through_and_frees_it(tmp_path):
    with pytest.raises(KeyError), lock(tmp_path / "l"):
        raise KeyError
    with lock(tmp_path / "l"):
        pass


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_that_the_umask_leaves_or_that_it_had(tmp_path, umask):
    path, before = tmp_path / "p.json", os.umask(umask)
    try:
        write_json(path, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        for mode in (0o600, 0o640, 0o666):
            path.chmod(mode)
            with beside(path) as part:
                assert not stat.S_IMODE(part.stat().st_mode) & ~mode, "readable before it is whole"
                part.write_text("new")
            assert (stat.S_IMODE(path.stat().st_mode), path.read_text()) == (mode, "new")
    finally:
        os.umask(before)


def test_what_is_no_regular_file_is_not_replaced_and_a_link_stays_one(tmp_path):
    """`--json /dev/null` would put a file in the place of the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(NerError) as caught:
            write_json(tmp_path / name, {})
        assert caught.value.place == tmp_path / name
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("file")
    write_json(tmp_path / "file", 1)
    write_json(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "file").read_text()) == 2


def test_a_lock_where_there_is_no_fcntl(tmp_path, monkeypatch):
    """As on Windows: the file with the holder's name can still be read."""
    monkeypatch.setattr("qwen_ner.files.fcntl", None)
    path = tmp_path / ".lock"
    with lock(path, owner="process 7"):
        with pytest.raises(NerError) as caught, lock(path):
            pass
        assert "process 7" in caught.value.what
        assert caught.value.place == tmp_path
    with lock(path):
        pass


def test_an_extra_is_installed_from_the_checkout_or_by_name(tmp_path, monkeypatch):
    assert install_line("serve") == f'pip install -e "{ROOT}[serve]"'
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "qwen_ner" / "files.py"))
    assert install_line("serve") == 'pip install "qwen_ner[serve]"'


def test_every_extra_that_the_code_names_exists():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "qwen_ner").rglob("*.py"))
    named = set(re.findall(r"""install_line\(["'](\w+)["']\)""", code))
    assert named == {"serve", "sweep", "ray", "modelscope"}
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in named)


class Owner:
    def __init__(self):
        self.own, self._kept = 1, 2

    def inherited(self):
        return 3

    @property
    def kept(self):
        return self._kept

    @kept.setter
    def kept(self, value):
        self._kept = value


def test_an_object_has_its_own_attributes_again_and_those_of_its_class_from_the_class():
    owner = Owner()
    with replace_attributes(owner, own=10, inherited=lambda: 30, kept=20):
        assert (owner.own, owner.inherited(), owner.kept) == (10, 30, 20)
    assert (owner.own, owner.inherited(), owner.kept) == (1, 3, 2)
    assert vars(owner) == {"own": 1, "_kept": 2}, "a copy would keep an attribute that hides the class's"
