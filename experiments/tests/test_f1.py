"""The research on F1 runs on the toy, and its page is made of its runs: `python -m pytest experiments/tests`."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from f1_budget import RUNS, packed, read, unpacked
from f1_settings import Setting, WholePrompt, focal, label_tokens, read_whole_prompts, setting, where
from f1_table import claims, over_seeds, summary
from rows import EIGHT, ROOT
from torch.nn.functional import cross_entropy

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.evaluation.bootstrap import intervals
from qwen_ner.inference.extractor import Extractor
from qwen_ner.training.batches.collate import choose_collator
from qwen_ner.training.batches.reduced_head import tokens_of
from qwen_ner.training.model import load_model


def budget(folder, *options):
    command = [sys.executable, ROOT / "experiments/f1_budget.py", "--quick", "--out", "runs.jsonl", "--work", "work"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, timeout=400, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], done.stdout


def test_f1_budget(tmp_path):
    decodings = ("free", "constrained", "thresholds", "vote")
    runs, printed = budget(
        tmp_path, "--settings", "plain", "mended", "twice+prefix-lm+rank8", "--decodings", *decodings
    )
    assert len(runs) == 12
    assert {run["decoding"] for run in runs} == set(decodings)
    assert {run["fields"]["rank"] for run in runs} == {16, 8}
    assert all((run["rows"], run["trained_rows"], run["split"]) == (40, 30, "held out") for run in runs)
    assert "twice+prefix-lm+rank8" in printed
    report = json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))
    assert len(report["table"]) == 12
    assert report["run"]["command"].startswith("python ")
    assert report["measured"]["dates"] == [report["run"]["date"]]
    again, _ = budget(tmp_path, "--settings", "plain", "--seeds", "42", "43")
    assert [run["seed"] for run in again] == [*(run["seed"] for run in runs), 43], "what was run is not run again"
    settings = ["full", "seen+text-order+focal-keys", "ours+fgm+rdrop", "ours+inline"]
    others, _ = budget(tmp_path, "--settings", *settings)
    assert [run["setting"] for run in others[len(again) :]] == settings
    assert all(run["repeated"].keys() == {"gold", "missed", "spurious"} for run in others)


def test_a_budget_of_epochs_trains_all_settings_on_the_same_rows(tmp_path):
    runs, printed = budget(tmp_path, "--epochs", "0.05", "--settings", "ours", "ours+batch5")
    (held,) = {run["epochs"] for run in runs}
    assert held == 0.05
    assert {run["minutes"] for run in runs} == {None}
    assert runs[0]["trained_rows"] == runs[1]["trained_rows"] == 100
    assert [run["steps"] for run in runs] == [10, 20]
    assert printed.count("held out, 0.05 epochs") == 2
    on_dev, printed = budget(tmp_path, "--epochs", "0.05", "--dev")
    assert [run["split"] for run in on_dev[2:]] == ["dev"]
    assert {run["setting"] for run in on_dev[2:]} == {"plain"}
    assert "dev, 0.05 epochs, plain" in printed


def test_runs_of_as_many_epochs_are_compared_with_each_other_alone():
    of_minutes, of_epochs = budget_run("ours", 90), {**budget_run("ours", 50), "minutes": None, "epochs": 3}
    other = {**budget_run("plain", 40), "minutes": None, "epochs": 3}
    table = summary([of_minutes, of_epochs, other], "ours")["table"]
    assert [(line["setting"], line["minutes"], line.get("epochs")) for line in table] == [
        ("ours", None, 3), ("plain", None, 3), ("ours", 90, None)
    ]  # fmt: skip
    assert round(table[1]["against"]["value"], 2) == round(100 * (80 / 140 - 100 / 150), 2)


def test_what_waits_for_a_gpu_can_be_run():
    known: dict[str, str] = {}
    for line in (ROOT / "experiments/gpu_runs.txt").read_text(encoding="utf-8").splitlines():
        script, *options = shlex.split(line)
        if script not in known:
            command = [sys.executable, ROOT / "experiments" / script, "--help"]
            known[script] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert {option for option in options if option.startswith("--")} <= set(re.findall(r"--\w+", known[script]))
        if "--settings" in options:
            setting(options[options.index("--settings") + 1])


def test_an_inline_target_is_decoded_in_every_way(tmp_path):
    runs, _ = budget(tmp_path, "--settings", "ours+inline", "--decodings", "free", "constrained", "vote")
    problems = {run["decoding"]: run["problems"] for run in runs}
    assert problems.keys() == {"free", "constrained", "vote"}
    assert problems["free"]["miscopied"], "after three steps it cannot copy"
    assert not problems["constrained"].keys() - {"truncated"}


def test_what_a_setting_costs_is_what_it_computes():
    """Rates that were measured before there were levers of the step keep their names."""
    plain, names = setting("ours"), ("ours+fgm", "ours+rdrop", "ours+dropout", "ours+inline")
    assert plain.cost.endswith("bf16=True head=seen")
    assert len({plain.cost, *(setting(name).cost for name in names)}) == 5
    assert setting("ours+fgm+fgm=0.3").cost == setting("ours+fgm").cost
    known = [json.loads(line) for line in (ROOT / RUNS).read_text(encoding="utf-8").splitlines()]
    assert plain.cost in {line.get("cost") for line in known}


def test_a_setting_is_named_by_its_levers():

    assert setting("plain") == Setting()
    assert setting("rank64+twice+learning_rate=8e-4") == Setting(rank=64, twice=True, learning_rate=8e-4)
    with pytest.raises(SystemExit, match="rank65: no such lever; there are plain, ours, tutorial"):
        setting("rank65")


def test_a_loss_of_labels_alone_leaves_the_other_tokens_as_they_are(tokenizer):

    codec = Codec(CLUENER)
    rows = build_dataset(EIGHT, codec, tokenizer)
    target = torch.tensor([token for row in rows for token in row["answer_ids"]])
    tokens = label_tokens(codec, tokenizer, rows, narrow=False)
    of_labels = torch.isin(target, tokens)
    written = sum(len({entity.label for entity in example.entities}) for example in EIGHT)
    assert of_labels.sum() >= written
    assert not of_labels.all()
    seen = tokens_of(rows)
    assert set(seen[label_tokens(codec, tokenizer, rows, narrow=True)].tolist()) == set(target[of_labels].tolist())

    logits = torch.randn(len(target), len(tokenizer), generator=torch.manual_seed(0))
    mixed, plain = where(tokens, focal)(logits, target), cross_entropy(logits, target, reduction="none")
    assert torch.equal(mixed[~of_labels], plain[~of_labels])
    assert torch.equal(mixed[of_labels], focal(logits, target)[of_labels])
    assert (mixed[of_labels] < plain[of_labels]).all()


def test_counts_come_back_as_they_were():

    counts = np.random.default_rng(0).integers(0, 9, (7, 8, 3)).astype(float)
    assert (unpacked({"counts": packed(counts), "rows": 7, "labels": ["a", "b"]}) == counts).all()


def budget_run(setting, right, minutes=90, split="dev", seed=42):
    """Of 100 rows with one entity each, `right` are found and the others missed."""

    counts = np.zeros((100, 6, 3))
    counts[:, 0] = counts[:, 2] = [(1, 0, 0) if n < right else (0, 0, 1) for n in range(100)]
    return {"setting": setting, "split": split, "minutes": minutes, "decoding": "free", "seed": seed, "rows": 100,
            "labels": ["a"], "counts": packed(counts), "rate": 0.5, "trained_rows": 7, "train_seconds": 3.0,
            "read_seconds": 0.1, "processor": "abacus", "cores": 2, "gpu": None, "python": "3", "torch": "2",
            "transformers": "5", "accelerate": "1", "peft": "0"}  # fmt: skip


def test_finalists_are_held_against_what_is_asked_of_them():
    """ours finds 90 of 100 and the others 10; runs of other rows or budgets are not read."""

    run = budget_run
    runs = [run("ours", 90), run("trl+learning_rate=8e-4", 10), run("plain", 90), run("mended", 1, minutes=30),
            run("ours", 1, split="held out")]  # fmt: skip
    made = {claim["name"]: claim for claim in claims(runs)}
    assert list(made) == ["points of f1 over trl", "p of being better than trl", "points of f1 over plain",
                          "p of being better than plain"]  # fmt: skip
    assert made["points of f1 over trl"]["value"] == pytest.approx(100 * (180 / 190 - 20 / 110), abs=0.1)
    assert [claim["holds"] for claim in made.values()] == [True, True, False, False]
    assert claims(runs[1:]) == []


def test_the_summary_tells_each_run_against_ours_in_the_same_minutes():
    """ours and seen+text-order are one setting: one line, with no difference to itself. Of several seeds those are
    compared that both sides have."""

    run = budget_run
    runs = [run("plain", 50), run("ours", 100), run("ours", 90, minutes=30, seed=43), run("ours", 70, minutes=30),
            run("seen+text-order", 100, 10, "held out"), run("seen", 50, 10, "held out"),
            run("ours", 60, 10, "held out", seed=43)]  # fmt: skip
    report = summary(runs, "ours")
    found = {
        (
            line["setting"],
            line["minutes"],
            *(line[key] and round(line[key]["value"], 2) for key in ("against", "lever")),
        )
        for line in report["table"]
    }
    assert found == {("ours", 90, None, 33.33), ("ours", 30, None, None), ("plain", 90, -33.33, None),
                     ("seen+text-order", 10, None, 33.33), ("seen", 10, -33.33, None)}  # fmt: skip
    line = next(line for line in report["table"] if line["minutes"] == 30)
    assert line["f1"]["value"] == pytest.approx(100 * (2 * 90 / 190 + 2 * 70 / 170) / 2, abs=1e-3)
    assert line["f1"]["low"] < line["f1"]["value"] < line["f1"]["high"]
    assert line["labels"]["a"] == line["f1"]
    assert line["seeds"] == {"42": 82.35, "43": 94.74}
    assert report["machine"]["processor"] == "abacus"
    assert report["levers"].keys() == {"plain", "ours", "seen", "text-order"}


def test_the_interval_of_several_runs_is_that_of_the_mean_of_their_rates():
    good, bad = np.zeros((200, 6, 3)), np.zeros((200, 6, 3))  # one label; surfaces, spans, seen and unseen
    good[:, 0] = [1, 0, 0]
    bad[:, 0] = [0, 8, 1]
    bad[::50, 0] = [1, 8, 0]
    mean = (1 + 2 * 4 / (2 * 4 + 8 * 200 + 196)) / 2
    sure = over_seeds([good, bad], ["drug"])
    for rate in ("f1", "macro_f1"):  # the counts of both, added up, have an f1 of 0.18
        assert sure[rate]["value"] == pytest.approx(100 * mean, abs=1e-4)
        assert sure[rate]["low"] < 100 * mean < sure[rate]["high"] < 100 * mean + 1
    one = over_seeds([bad], ["drug"])
    for rate, interval in intervals(bad, ["drug"]).items():
        assert (one[rate]["low"], one[rate]["high"]) == pytest.approx(
            (100 * interval.low, 100 * interval.high), abs=1e-4
        )


def test_a_table_of_no_runs_says_so_and_writes_nothing(tmp_path):
    command = [sys.executable, ROOT / "experiments/f1_budget.py", "--table", "--out", tmp_path / "none.jsonl"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "none.jsonl holds no runs; make some first, without --table" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_summary_in_the_checkout_is_made_of_the_runs_beside_it():

    source = ROOT / RUNS
    kept = json.loads(source.with_suffix(".json").read_text(encoding="utf-8"))
    del kept["run"]
    assert kept == summary(read(source), "ours")


def test_a_prompt_is_read_as_a_whole_in_training_and_in_use(tiny, tokenizer):
    """The first token of each answer is the one that training's batch predicts there; and causal reading differs."""

    codec, model = Codec(CLUENER, "找出实体"), load_model(str(tiny)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)  # so that what is seen decides
    rows = list(build_dataset(EIGHT, codec, tokenizer))
    causal = choose_collator(model, tokenizer.pad_token_id)
    first = torch.tensor([0, *(len(row["answer_ids"]) for row in rows)]).cumsum(0)[:-1]

    def logits(collator):
        batch = {key: value for key, value in collator(rows).items() if key not in ("labels", "shift_labels")}
        with torch.no_grad():
            return model(**batch).logits.flatten(0, -2)[first]

    whole = logits(WholePrompt(causal))
    assert (whole - logits(causal)).abs().max() > 0.1
    extractor = Extractor(model, tokenizer, NerConfig(CLUENER, "找出实体", 16, (2, 0)))
    read_whole_prompts(extractor)
    made = extractor.backend.complete([row["prompt_ids"] for row in rows], 1)
    expected = whole.log_softmax(-1).max(-1).values
    assert torch.allclose(torch.tensor([one.logprobs[0] for one in made]), expected, atol=1e-4)
