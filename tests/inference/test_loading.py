"""What is said of a folder whose base model is not where it was."""

import json
import shutil

import pytest
import torch

from qwen_ner import cli
from qwen_ner.entities import NerError
from qwen_ner.inference.loading import load_tokenizer, load_weights


@pytest.fixture
def adapter(trained, tmp_path):
    """`adapter(base)`: a trained adapter whose config names that base."""

    def adapter(base):
        folder = tmp_path / "adapter"
        shutil.copytree(trained["adapter"], folder, ignore=shutil.ignore_patterns("checkpoint-*"))
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base, "revision": None}))
        return folder

    return adapter


@pytest.mark.parametrize("base", ["/gone/base", "./gone", "../a/b/c", "~/base", "D:\\models\\base"])
def test_a_base_whose_folder_is_gone(adapter, base):
    folder = adapter(base)
    with pytest.raises(NerError) as error:
        load_weights(folder, torch.float32)
    assert (error.value.place, error.value.value) == (folder / "adapter_config.json", base)
    assert "base_model_name_or_path" in error.value.remedy


@pytest.mark.parametrize("base", [None, "", 5])
def test_an_adapter_that_names_no_base(adapter, base):
    folder = adapter(base)
    with pytest.raises(NerError, match="names no base model") as error:
        load_weights(folder, torch.float32)
    assert (error.value.place, error.value.value) == (folder / "adapter_config.json", base)


def test_what_the_remedy_says_helps(adapter, tiny, tmp_path):
    folder = adapter(str(tmp_path / "gone"))
    with pytest.raises(NerError):
        load_weights(folder, torch.float32)
    shutil.copytree(tiny, tmp_path / "gone")
    assert load_weights(folder, torch.float32)


def test_a_command_says_nothing_of_its_libraries(adapter, tiny, capfd, recwarn):
    """A user can do nothing about what peft still calls in transformers."""
    cli.main(["predict", str(adapter(str(tiny))), "--text", "王芳在深圳", "--dtype", "float32"])
    out, err = capfd.readouterr()
    assert json.loads(out)["text"] == "王芳在深圳"
    assert (err, [str(warning.message) for warning in recwarn]) == ("", [])


@pytest.mark.parametrize("base", ["outputs/base", "gone"])
def test_a_base_that_may_be_on_the_hub_is_named(adapter, base):
    with pytest.raises(NerError) as error:
        load_weights(adapter(base), torch.float32)
    assert base in error.value.remedy


def test_the_command_line_names_the_folder_that_is_gone(adapter):
    with pytest.raises(SystemExit, match=r"^error: .*adapter_config\.json: .* '/gone/base'"):
        cli.main(["predict", str(adapter("/gone/base")), "--text", "三星在北京"])


def test_a_tokenizer_of_a_folder_that_is_gone():
    with pytest.raises(NerError, match="no such folder") as error:
        load_tokenizer("/gone/base")
    assert error.value.place == "/gone/base"
