"""An exported model: transformers alone writes what the Extractor writes."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from rows import EIGHT, ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from qwen_ner import cli
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import NerError
from qwen_ner.hub.push import export, push
from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.inference.extractor import Extractor


@pytest.mark.slow
def test_stock_generate_writes_what_the_extractor_writes(trained, hub, tmp_path, capsys):
    out = tmp_path / "merged"
    cli.main(["export", str(trained["adapter"]), str(out), "--merge"])
    assert str(out) in capsys.readouterr().out
    assert not list(out.glob("adapter*"))
    extractor = Extractor.from_pretrained(trained["adapter"])
    ends = extractor.config.end_token_ids
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, [gold.text for gold in EIGHT])
    ours = TorchBackend(extractor.model, ends, extractor.tokenizer.pad_token_id).complete(prompts, 48)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    for gold, prompt, completion in zip(EIGHT, prompts, ours, strict=True):
        inputs = tokenizer.apply_chat_template(
            extractor.codec.messages(gold.text), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        assert inputs["input_ids"][0].tolist() == prompt
        written = model.generate(**inputs, max_new_tokens=48)[0, len(prompt) :].tolist()
        assert written[: len(completion.ids)] == completion.ids
        assert {*written[len(completion.ids) :]} <= {*ends}
    assert any(extractor.extract([gold.text for gold in EIGHT]))
    again = Extractor.from_pretrained(out).predict([gold.text for gold in EIGHT])
    assert again == extractor.predict([gold.text for gold in EIGHT])


@pytest.mark.slow
def test_a_checkpoint_is_exported_with_what_its_training_left_beside_it(trained, hub, tmp_path):
    checkpoint = trained["adapter"] / "checkpoint-20"
    export(checkpoint, tmp_path / "out")
    for name in ("recipe.yaml", "trained_texts.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (trained["adapter"] / name).read_bytes()
    assert not (tmp_path / "out" / "metrics.json").exists(), "they are of the best checkpoint"
    push(checkpoint, "tester/ner", merge=True)
    assert b"learning_rate" in hub.files("tester/ner")["recipe.yaml"]


@pytest.mark.slow
def test_an_export_in_another_dtype_has_no_scores(trained, hub, tmp_path):
    export(trained["full"], tmp_path / "half", dtype="bfloat16")
    assert not (tmp_path / "half" / "metrics.json").exists()
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(tmp_path / "half").parameters()} == {torch.bfloat16}
    export(trained["full"], tmp_path / "whole")
    scored = (trained["full"] / "metrics.json").read_bytes()
    assert (tmp_path / "whole" / "metrics.json").read_bytes() == scored
    for folder in (trained["full"], trained["adapter"], tmp_path / "whole"):  # whoever may read one file may read all
        assert len({path.stat().st_mode for path in folder.iterdir() if path.is_file() and path.name[0] != "."}) == 1
    (tmp_path / "whole" / "metrics.json").write_text("")
    assert (trained["full"] / "metrics.json").read_bytes() == scored, "a copy, not a link"


@pytest.mark.slow
def test_an_export_overwrites_nothing_and_is_whole_or_absent(trained, hub, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(NerError) as caught:
        export(trained["full"], tmp_path / "out")
    assert caught.value.place == tmp_path / "out"

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qwen_ner.hub.push.copy_files", full)
    with pytest.raises(OSError, match="No space"):
        export(trained["full"], tmp_path / "new" / "out")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.slow
def test_a_failed_export_names_the_cause_and_leaves_nothing(trained, hub, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(NerError, match="No space left") as caught:
            export(trained["full"], disk / "out")
        assert caught.value.place == disk / "out"
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    torn = shutil.copytree(trained["full"], tmp_path / "torn")
    (torn / "generation_config.json").write_text("{")
    with pytest.raises(NerError) as caught:
        export(torn, tmp_path / "out")
    assert caught.value.place == torn / "generation_config.json"


@pytest.mark.slow
def test_evaluate_names_a_corrupt_training_log(trained, taught, tmp_path, capsys):
    torn = shutil.copytree(trained["full"], tmp_path / "torn")
    (torn / "trainer_state.json").write_text("{")
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", str(torn), "--data", str(taught)])
    refusal = caught.value.__context__
    assert refusal.place == torn / "trainer_state.json"
    assert "remove it" in refusal.remedy


@pytest.mark.slow
def test_without_a_network_a_push_says_so(trained):
    """In its own network namespace, which has no route."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace needs root")
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT), "HF_TOKEN": "none"}
    command = ["unshare", "-n", sys.executable, "-m", "qwen_ner", "push", trained["full"], "someone/model"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 1
    assert "error: someone/model: the Hub cannot be reached" in done.stderr
    assert "check the network" in done.stderr
    assert "Traceback" not in done.stderr
