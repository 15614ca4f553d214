"""Sweeps without an account. Where only the search is tested, a trial is a script that prints what a training prints."""

import ast
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest
import yaml
from launcher import launcher
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rows import EIGHT, ROOT
from test_recipes import LAUNCHER_KEY
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from warm_python import warm_python

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.entities import NerError
from qwen_ner.files import install_line
from qwen_ner.sweep import outcome
from qwen_ner.sweep import run as sweeping
from qwen_ner.sweep.run import run, sweep
from qwen_ner.sweep.space import Space, read_parameter
from qwen_ner.sweep.sweep_file import check_recipe, read_sweep
from qwen_ner.sweep.trial import find_processes, read_evaluations, start, stop
from qwen_ner.training.finding import FaultsError
from qwen_ner.training.recipe import load_recipe

DRAW = outcome.draw

TRIAL = """
import os, signal, sys, time

given = dict(word[2:].split("=", 1) for word in sys.argv[2:])
checkpoint = given["output_dir"] + "/checkpoint"
begin = int(open(checkpoint).read()) if os.path.exists(checkpoint) else 0
seed, steps = int(given.get("seed", 0)), int(given.get("max_steps", 5))
print(f"begins at {begin} with {given}", flush=True)

def on_signal(*_):
    print("stopped with a checkpoint", flush=True)
    sys.exit(130)

signal.signal(signal.SIGTERM, on_signal)
if seed == 13:
    sys.exit("the thirteenth fails")
if seed == 9:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 8:
    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
if seed == 7:
    sys.exit()
for step in range(begin, steps + 1):
    if step:
        print(f"step {step}/{steps} · loss {1 / step:.4g} · grad_norm nan", flush=True)
    print(f"step {step}/{steps} · validation · loss {step} · f1 {step * float(given['learning_rate']):.4g} · not_json 0", flush=True)
    with open(checkpoint + ".new", "w") as new:
        new.write(str(step))
    os.replace(checkpoint + ".new", checkpoint)
    while step == 3 and os.path.exists(os.path.dirname(__file__) + "/hold"):
        time.sleep(60)
    time.sleep(float(given.get("warmup_steps", 0)))
"""


@pytest.fixture
def write(tmp_path):
    """A sweep file whose command is the script above, but for what is given."""
    (tmp_path / "trial.py").write_text(TRIAL, encoding="utf-8")

    def write(**keys):
        tree = {
            "program": str(ROOT / "recipes" / "quickstart.yaml"),
            "method": "grid",
            "metric": {"name": "eval/f1", "goal": "maximize"},
            "parameters": {"learning_rate": {"values": [0.01, 0.02]}},
            "command": [sys.executable, "-S", str(tmp_path / "trial.py"), "${program}", "${args}"],
        } | keys
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}))
        return path

    return write


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sweeping, "POLL", 0.05)
    monkeypatch.setattr(outcome, "draw", lambda *_, **__: [])


def study_in(folder):
    return optuna.load_study(
        study_name="sweep", storage=JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    )


def states(folder):
    return [trial.state.name for trial in study_in(folder).trials]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# What wandb means, in Optuna's terms


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"value": 3}, Space((3,))),
        ({"values": [1, "a", None, [2]]}, Space((1, "a", None, "[2]"))),
        ({"distribution": "categorical", "values": [True, False]}, Space((True, False))),
        ({"min": 1, "max": 9}, Space(low=1, high=9, step=1)),
        ({"min": 1, "max": 9.0}, Space(low=1, high=9.0)),
        ({"distribution": "uniform", "min": 1, "max": 9}, Space(low=1, high=9)),
        ({"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}, Space(low=1e-5, high=1e-3, log=True)),
        ({"distribution": "q_uniform", "min": 0, "max": 10, "q": 5}, Space(low=0, high=10, step=5)),
        ({"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1}, Space(low=0.1, high=0.3, step=0.1)),
        ({"distribution": "q_log_uniform_values", "min": 8, "max": 64}, Space(low=8, high=64, step=1, log=True)),
        ({"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 8}, Space(low=8, high=64, step=8, log=True)),
    ],
    ids=str,
)  # fmt: skip
def test_a_distribution_keeps_its_meaning(spec, expected):
    space = read_parameter(spec)
    assert space == expected
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = []
    for _ in range(60):
        trial = study.ask()
        drawn.append(space.suggest(trial, "x"))
        assert space.value(trial.params["x"]) == drawn[-1], "what the table says is what the trial had"
    if space.values:
        assert {*map(str, drawn)} == {*map(str, space.values)}
    elif space.step:  # as wandb: round(x / q) * q
        multiples = {
            round(n * space.step, 9) for n in range(round(space.low / space.step), round(space.high / space.step) + 1)
        }
        assert {round(value, 9) for value in drawn} <= multiples
        assert isinstance(space.step, float) or {*map(type, drawn)} == {int}, "what a whole-number key can read"
    else:
        assert space.low <= min(drawn) < max(drawn) <= space.high
    below_mean = sum(value < (space.low + space.high) / 2 for value in drawn) if not space.values else 0
    assert not space.log or below_mean > 35, "more small ones than large ones"


@pytest.mark.parametrize(
    "spec",
    [
        {"distribution": "normal", "mu": 0, "sigma": 1},
        {"distribution": "q_log_normal"},
        {"distribution": "beta", "a": 2},
        {"distribution": "log_uniform", "min": -9, "max": -3},
        {"distribution": "inv_log_uniform_values", "min": 2, "max": 4},
        {"values": [1, 2], "probabilities": [0.1, 0.9]},
    ],
    ids=str,
)
def test_what_optuna_cannot_draw_is_a_fault_only_of_a_local_sweep(write, spec):
    read = read_sweep(write(method="random", parameters={"weight_decay": spec}))
    (fault,) = read.local_faults
    assert fault.place == "weight_decay"
    assert spec.get("distribution", "probabilities") in fault.what + fault.remedy


@pytest.mark.parametrize(
    ("spec", "what", "place", "value", "remedy"),
    [
        (3, "mapping", None, 3, "{value: …}"),
        ({"min": 1}, "needs it", "max", None, "min and max"),
        ({"min": "1e-4", "max": 1.0}, "not a number", "min", "1e-4", "1.0e-4"),
        ({"min": 2, "max": 2}, r"below max \(2\)", "min", 2, ""),
        ({"min": 1, "max": 2, "q": 1}, "unknown", "q", None, "min, max"),
        ({"distribution": "gauss"}, "unknown", "distribution", "gauss", "constant, categorical"),
        ({"distribution": "constant"}, "needs it", "value", None, ""),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "not a number", "min", 0, "above 0"),
        ({"values": []}, "not a list", "values", [], "at least one"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "not a number that int_uniform", "min", 0.5, ""),
        ({"distribution": "q_uniform", "min": 0, "max": 2, "q": 0}, "not a number", "q", 0, "above 0"),
        ({"min": True, "max": 2}, "not a number", "min", True, ""),
        ({"parameters": {"a": {"value": 1}}}, "unknown", "parameters", None, "min, max"),
    ],
    ids=str,
)
def test_a_faulty_parameter(spec, what, place, value, remedy):
    with pytest.raises(NerError, match=what) as error:
        read_parameter(spec)
    assert (error.value.place, error.value.value) == (place, value)
    assert remedy in (error.value.remedy or "")


# The file


def test_the_command_is_the_one_that_wandbs_agent_runs(write, monkeypatch):
    """Composed by wandb's own code; and the recipe reads every value that it writes as it was meant."""
    values = {
        "bf16": False, "use_cpu": True, "learning_rate": 1e-05, "lora_r": 16, "lora_alpha": None, "weight_decay": 0.0,
        "lora_target_modules": ["q_proj", "v_proj"], "labels": {"drug": "药品"}, "run_name": "a b=c", "max_steps": -1,
        "lr_scheduler_type": "cosine_with_restarts", "system_prompt": "--找出", "lr_scheduler_kwargs": {"num_cycles": 2},
    }  # fmt: skip
    monkeypatch.setenv("CONFIG", "cpu")
    command = ["${env}", "accelerate", "launch", "configs/${envvar:CONFIG}.yaml", "${envvar:NOT_THERE}", "${program}", "${args}",
               "--seed=3"]  # fmt: skip
    path = write(command=command, parameters={key: {"value": value} for key, value in values.items()}, method="random")
    read = read_sweep(path)
    macros = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    macros |= {"program": [read.program], "env": ["/usr/bin/env"]}
    agents = []
    for word in create_sweep_command(list(command)):
        agents += macros[word[2:-1]] if word.startswith("${") else [word]
    assert sorted(read.launch({})) == sorted(agents)
    assert read.launch({})[:6] == agents[:6]
    recipe = load_recipe(read.program, agents[6:])
    assert {key: recipe.values[key] for key in values} == values


@pytest.mark.parametrize(
    ("keys", "place", "value", "remedy"),
    [
        ({"program": None}, "program", "", "name a recipe"),
        ({"program": "nowhere.yaml"}, "program", "nowhere.yaml", "name a recipe"),
        ({"method": "tpe"}, "method", "tpe", "bayes, grid, random"),
        ({"metric": {"name": "eval/f1"}}, "metric", {"name": "eval/f1"}, "{name: eval/f1, goal: maximize}"),
        ({"metric": {"name": "f1", "goal": "maximize"}}, "metric", {"name": "f1", "goal": "maximize"}, "eval/f1"),
        ({"metric": {"name": ["eval/f1"], 7: 1}}, "metric", {"name": ["eval/f1"], 7: 1}, "eval/f1"),
        ({"metod": "grid"}, "metod", None, 'did you mean "method"?'),
        ({"parameters": {}}, "parameters", {}, ""),
        ({"parameters": {"learning_rate": {"min": 0.1, "max": 0.2}}}, "learning_rate", None, ""),
        ({"parameters": {"learning_rate": {"min": "1e-4", "max": 1}}}, "learning_rate.min", "1e-4", "1.0e-4"),
        ({"command": "accelerate launch"}, "command", "accelerate launch", ""),
        ({"command": ["python", "${program}"]}, "command", ["python", "${program}"], ""),
        ({"command": ["python", "${args}"]}, "command", ["python", "${args}"], ""),
        ({"command": ["python", "${program}", "--x=${args}", "${args}"]}, "command", "--x=${args}", ""),
        ({"command": ["${program}", "${args_no_hyphens}", "${args}"]}, "command", "${args_no_hyphens}", ""),
        ({"command": []}, "command", [], ""),
        ({"command": False}, "command", False, ""),
        ({"metric": "eval/f1"}, "metric", "eval/f1", "name: eval/f1"),
        ({"run_cap": 0}, "run_cap", 0, ""),
        ({"run_cap": True}, "run_cap", True, ""),
    ],
    ids=str,
)
def test_a_faulty_file(write, keys, place, value, remedy):
    path = write(**keys)
    with pytest.raises(FaultsError) as error:
        read_sweep(path)
    assert error.value.place == path
    fault = error.value.faults[0]
    assert (fault.place, fault.value) == (place, value)
    assert remedy in (fault.remedy or "")


@pytest.mark.parametrize(
    "early",
    [
        {"type": "envelope"},
        {"type": ["hyperband"], "min_iter": 2},
        "hyperband",
        {"type": "hyperband", "min_iter": 2, "etta": 3},
        {"type": "hyperband", "min_iter": 2, 7: 3},
        {"type": "hyperband", "min_iter": 2, "eta": 1},
        {"type": "hyperband", "min_iter": True},
        {"type": "hyperband", "min_iter": "x"},
        {"type": "hyperband"},
    ],
    ids=str,
)
def test_early_termination_that_nobody_can_do(write, early):
    with pytest.raises(FaultsError) as caught:
        read_sweep(write(early_terminate=early))
    (fault,) = caught.value.faults
    assert (fault.place, fault.value) == ("early_terminate", early)
    assert "min_iter: 1" in fault.remedy
    assert "eta is at least 2" in fault.remedy


def test_early_termination_that_only_wandb_can_do(write):
    early = {"type": "hyperband", "min_iter": 2, "strict": True}
    assert [fault.place for fault in read_sweep(write(early_terminate=early)).local_faults] == [
        "early_terminate.strict"
    ]


@pytest.mark.parametrize(
    ("spec", "place", "remedy"),
    [
        ({"parameters": {"learning_rate": {"min": 1, "max": 2}}}, "learning_rate.parameters", "min, max"),
        ({"distribution": ["uniform"], "min": 1, "max": 2}, "learning_rate.distribution", 'did you mean "uniform"?'),
        ({"distribution": {"a": 1}}, "learning_rate.distribution", "choose from"),
        ({"distribution": "unifrom", "min": 1, "max": 2}, "learning_rate.distribution", 'did you mean "uniform"?'),
        ({"distribution": "q_log_uniform_values", "min": 1e-4, "max": 1e-2}, "learning_rate.min", ""),
        ({"distribution": "q_uniform", "min": 0.1, "max": 0.9, "q": 5}, "learning_rate.min", ""),
        ({"values": [1, 2], "min": 1}, "learning_rate.min", "known: values"),
        ({"Min": 1, "max": 2}, "learning_rate.Min", 'did you mean "min"?'),
        ({"min": 1, "max": 2, 7: 1}, "learning_rate.7", "known: min, max"),
        ({"min": [1], "max": 2}, "learning_rate.min", ""),
        ({"min": 1, "max": 10**400}, "learning_rate.max", ""),
        ([1, 2], "learning_rate", "{values: "),
        (0.1, "learning_rate", "{value: "),
        (None, "learning_rate", "{value: "),
    ],
    ids=str,
)
def test_a_parameter_that_nobody_can_draw(write, spec, place, remedy):
    with pytest.raises(FaultsError) as caught:
        read_sweep(write(method="random", parameters={"learning_rate": spec}))
    (fault,) = caught.value.faults
    assert fault.place == place
    assert remedy in (fault.remedy or "")


def test_a_key_given_twice_is_refused(write):
    path = write()
    path.write_text(path.read_text(encoding="utf-8") + "\nmethod: random\n", encoding="utf-8")
    with pytest.raises(NerError, match="method is given twice") as caught:
        read_sweep(path)
    assert caught.value.place == path


def test_the_recipe_checks_every_key_and_value(write):
    """Also the key of a distribution that only wandb can draw from."""
    path = write(
        method="random",
        parameters={
            "learnin_rate": {"values": [1, 2]},
            "lora_r": {"values": [8, "sixteen", 0]},
            "weight_decay": {"distribution": "normal"},
            "weight_decai": {"distribution": "normal"},
            "warmup_steps": {"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 8},
            "output_dir": {"value": "x"},
            "seed": {"min": 1, "max": 9},
        },
    )
    faults, trackers = check_recipe(read_sweep(path))
    assert {(fault.place, fault.value, fault.remedy) for fault in faults} == {
        ("output_dir", None, "each trial has its own folder"),
        ("learnin_rate", None, "did you mean learning_rate?"),
        ("weight_decai", None, "did you mean weight_decay?"),
        ("lora_r", "sixteen", None),
        ("lora_r", 0, None),
    }
    assert len(faults) == 5, "each is told once"
    assert trackers == []


def test_a_swept_key_that_the_command_sets_again_is_refused(write, monkeypatch):
    """What stands behind ${args} counts, so all trials would be the same."""
    monkeypatch.setenv("AGAIN", "--seed=3")
    command = [
        "python",
        "--lora_alpha=8",
        "${program}",
        "--lora-r=4",
        "${args}",
        "--lora-alpha=none",
        "${envvar:AGAIN}",
    ]
    swept = {"lora_alpha": {"values": [8, 128]}, "lora_r": {"values": [4, 8]}, "seed": {"value": 1}}
    faults, _ = check_recipe(read_sweep(write(parameters=swept, command=command)))
    assert [fault.place for fault in faults] == ["lora_alpha", "seed"]
    assert all("set again in `command`" in fault.what for fault in faults)


@pytest.mark.parametrize(
    ("parameters", "place", "remedy"),
    [
        ({"metric_for_best_model": {"value": "span_f1"}}, "metric_for_best_model", "metric_for_best_model: f1"),
        (
            {"eval_strategy": {"value": "no"}, "load_best_model_at_end": {"value": False}},
            "eval_strategy",
            "eval_strategy: epoch",
        ),
    ],
)
def test_a_trial_has_a_value_and_it_is_that_of_the_model_it_keeps(write, parameters, place, remedy):
    varied = {"learning_rate": {"values": [0.001, 0.002]}}
    assert check_recipe(read_sweep(write(parameters=varied)))[0] == []
    faults = check_recipe(read_sweep(write(parameters=varied | parameters)))[0]
    (fault,) = (fault for fault in faults if fault.place == place)
    assert remedy in fault.remedy


@pytest.mark.slow
def test_the_shipped_sweep_is_valid_and_says_how_it_is_run(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep(Path("recipes/sweep.yaml"), local=False)
    out = capsys.readouterr().out
    assert "wandb sweep recipes/sweep.yaml" in out
    assert "wandb agent" in out
    read = read_sweep(Path("recipes/sweep.yaml"))
    assert not read.local_faults
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    values = {key: space.probes[0] for key, space in read.varied.items()}
    recipe = load_recipe(read.program, [*read.overrides(values), "--use_cpu", "--bf16=false"])
    assert recipe.training.output_dir == "outputs/sweep/abc"
    assert recipe.training.report_to == ["wandb"]
    assert recipe.training.run_name is None
    assert recipe.model.lora()["lora_alpha"] == 2 * recipe.model.lora_r


# The log


def test_evaluations_are_numbered_from_the_first_step():
    log = "step 5/9 · validation · f1 0.5\nstep 6/9 · loss 1\n\n 10%|step 9/9 · validation · loss nan · f1 nan · x y\n"
    assert read_evaluations(log, "f1") == {1: 0.5}
    log = "step 0/9 · validation · loss 2 · f1 1e-05\nstep 4/9 · validation · f1 0.2\nstep 8/9 · valid"
    assert read_evaluations(log, "f1") == {0: 1e-05, 1: 0.2}
    log += "ation · f1 0.4\nstep 4/9 · validation · f1 0.3\n"  # resumed from step 4, which is scored again
    assert read_evaluations(log, "f1") == {0: 1e-05, 1: 0.2, 2: 0.4}
    assert read_evaluations(log, "loss") == {0: 2.0}


@pytest.mark.parametrize("copies", [0, 3])
def test_a_training_prints_what_a_sweep_reads(capsys, copies):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from qwen_ner.training.loop.callbacks import LogLines

    logs = {
        "eval_loss": 0.25,
        "eval_f1": 0.51234,
        "eval_span_f1": 0.5,
        "eval_macro_f1": 0.0,
        "eval_not_json": 2,
        "eval_miscopied": copies,
        "epoch": 1.0,
    }
    state = TrainerState(global_step=7, max_steps=9, is_world_process_zero=True)
    LogLines().on_log(TrainingArguments(output_dir="x", use_cpu=True), state, TrainerControl(), logs=logs)
    log = capsys.readouterr().out
    for metric, value in {"loss": 0.25, "f1": 0.5123, "span_f1": 0.5, "macro_f1": 0.0}.items():
        assert read_evaluations(log, metric) == {1: value}
    assert ("miscopied 3" in log, "miscopied" in log) == (copies == 3, copies > 0)


# A trial


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu.yaml", "cpu_2proc.yaml"])
def test_a_trial_is_stopped_with_its_ranks_and_leaves_a_checkpoint(config, tiny, tmp_path):
    """Launchers differ: one dies of SIGTERM before its training, the other has its ranks in sessions of their own."""
    write_rows(tmp_path, "train")
    command = [
        "accelerate", "launch", "--config_file", str(ROOT / "accelerate_configs" / config), str(ROOT / "recipes" / "quickstart.yaml"),
        f"--model_name_or_path={tiny}", f"--dataset={tmp_path}", "--validation_rows=4", "--logging_steps=1", "--num_train_epochs=500",
        "--eval_strategy=no", "--save_strategy=no", "--load_best_model_at_end=False", "--early_stopping_patience=none",
        "--eval_on_start=False", f"--output_dir={tmp_path / 'trial'}",
    ]  # fmt: skip
    trial = start(command, tmp_path / "trial")
    log = tmp_path / "trial" / "log.txt"
    wait_for(lambda: trial.poll() is not None or "step 3/" in log.read_text(), 120)
    assert len(find_processes(tmp_path)) >= (3 if "2proc" in config else 2), log.read_text()
    stop(tmp_path / "trial")
    assert trial.poll() is not None
    assert not find_processes(tmp_path)
    assert list((tmp_path / "trial").glob("checkpoint-*/trainer_state.json")), log.read_text()


def write_rows(folder, *splits):
    rows = [type(gold)(str(i), gold.text, gold.entities) for i, gold in enumerate(EIGHT * 2)]
    for split in splits:
        write_jsonl(folder / f"{split}.jsonl", rows)


# Searching


def test_a_grid_is_gone_through_and_a_failed_trial_does_not_end_it(write, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(outcome, "draw", DRAW)
    caplog.set_level("INFO")
    seeds = [1, 13, 9, 8, 7]
    parameters = {"learning_rate": {"values": [0.01, 0.02]}, "seed": {"values": seeds}, "max_steps": {"value": 4}}
    path = write(parameters=parameters)
    out = tmp_path / "out"
    run(read_sweep(path), out, 10)
    trials = study_in(out).trials
    assert [(t.params["learning_rate"], t.params["seed"]) for t in trials] == [
        (r, s) for r in (0.01, 0.02) for s in seeds
    ]
    assert states(out) == ["COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL"] * 2
    assert [t.value for t in trials if t.value is not None] == [0.04, 0.08]
    assert trials[0].intermediate_values == {0: 0, 1: 0.01, 2: 0.02, 3: 0.03, 4: 0.04}
    failures = ["exit code 1", "out of memory", "out of memory", "no evaluation with f1"]
    assert [trial.user_attrs["failure"] for trial in trials[1:5]] == failures
    assert f"{out / 'trial-1' / 'log.txt'}: exit code 1" in caplog.text
    assert "the thirteenth fails" in caplog.text
    printed = capsys.readouterr().out
    assert "trial     state  eval/f1  seconds  learning_rate  seed" in printed
    assert "5      complete   0.0800 " in printed
    for name in ("history", "importances", "parallel_coordinates"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    best = load_recipe(out / "best.yaml")
    assert (best.training.learning_rate, best.training.seed, best.training.max_steps) == (0.02, 1, 4)
    assert best.training.output_dir == str(out / "best")
    assert LAUNCHER_KEY in yaml.safe_load((out / "best.yaml").read_text())
    assert best.data == load_recipe(read_sweep(path).program).data
    ast.parse((out / "best.yaml").read_text())
    run(read_sweep(path), out, 10)  # once more: nothing is left to be done
    assert len(states(out)) == 10


@pytest.mark.parametrize("best", [0.0, 0.5])
def test_of_trials_that_all_scored_0_none_is_called_better(write, tmp_path, best):
    searched, study = read_sweep(write(command=None)), optuna.create_study(direction="maximize")
    for value, rate in ((0.0, 0.01), (best, 0.02)):
        space = {"learning_rate": optuna.distributions.CategoricalDistribution([0.01, 0.02])}
        trial = {"params": {"learning_rate": rate}, "distributions": space, "value": value}
        study.add_trial(optuna.trial.create_trial(**trial))
    *_, said, launch = outcome.report(searched, study, tmp_path).splitlines()
    assert launch.strip() == f"qwen-ner train {tmp_path / 'best.yaml'}"
    assert ("does not tell them apart" in said, "raise num_train_epochs or max_steps" in said) == (not best, not best)
    assert said.endswith("To train the best recipe once more:") == bool(best)


def test_the_evaluation_before_training_says_nothing_of_a_trial(write, tmp_path):
    """It is of the model that is given, and no checkpoint is kept of it."""
    parameters = {"learning_rate": {"value": 0.1}, "max_steps": {"values": [0, 3]}}
    path = write(parameters=parameters, metric={"name": "eval/loss", "goal": "minimize"})
    run(read_sweep(path), tmp_path / "out", 2)
    none, worse = study_in(tmp_path / "out").trials
    assert none.user_attrs["failure"] == "no evaluation with loss"
    assert worse.intermediate_values == {0: 0, 1: 1, 2: 2, 3: 3}
    assert worse.value == 1


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_a_search_repeats_itself_from_the_start_and_goes_on_with_other_values(write, tmp_path, method):
    path = write(method=method, parameters={"learning_rate": {"min": 0.0, "max": 0.1}, "max_steps": {"value": 1}})
    for folder, counts in {"one": (4,), "again": (4,), "two": (2, 4)}.items():
        for count in counts:
            run(read_sweep(path), tmp_path / folder, count)
    one, again, two = (
        [t.params["learning_rate"] for t in study_in(tmp_path / folder).trials] for folder in ("one", "again", "two")
    )
    assert len(set(one)) == len(set(two)) == 4
    assert one == again
    assert one[:2] == two[:2]


def test_nothing_but_failures_is_an_error_that_names_the_logs(write, tmp_path):
    path = write(parameters={"learning_rate": {"value": 0.1}, "seed": {"values": [13, 8]}})
    with pytest.raises(NerError) as error:
        run(read_sweep(path), tmp_path / "out", 2)
    assert error.value.what.splitlines()[2].split()[:2] == ["0", "fail"]
    assert error.value.place == tmp_path / "out"


def test_a_command_that_is_not_there_fails_its_trials(write, tmp_path):
    with pytest.raises(NerError, match="acelerate"):
        run(read_sweep(write(command=["acelerate", "${program}", "${args}"])), tmp_path / "out", 2)


def test_a_hopeless_trial_is_stopped_early(write, tmp_path):
    """0.02 first, then a tenth of it: at the first rung it is not among the best third."""
    path = write(
        parameters={
            "learning_rate": {"values": [0.02, 0.002]},
            "warmup_steps": {"value": 0.3},
            "max_steps": {"value": 6},
        },
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 3},
    )
    out = tmp_path / "out"
    run(read_sweep(path), out, 2)
    assert states(out) == ["COMPLETE", "PRUNED"]
    pruned = study_in(out).trials[1]
    assert pruned.last_step in (2, 3)
    log = (out / "trial-1" / "log.txt").read_text()
    assert "step 6/6" not in log
    assert "stopped with a checkpoint" in log
    assert not find_processes(out)


def test_jobs_run_side_by_side(write, tmp_path):
    path = write(parameters={"learning_rate": {"values": [0.01, 0.02, 0.03]}, "warmup_steps": {"value": 0.2}})
    run(read_sweep(path), tmp_path / "out", 3, jobs=2)
    first, second, third = study_in(tmp_path / "out").trials
    assert second.datetime_start < first.datetime_complete
    assert third.datetime_start >= min(first.datetime_complete, second.datetime_complete)
    assert states(tmp_path / "out") == ["COMPLETE"] * 3


# Interruptions


def run_apart(path, out, number, jobs=2):
    """The sweep in a process of its own, which ends with 130 and leaves a message where it was interrupted."""

    def body():
        try:
            run(read_sweep(path), out, number, jobs=jobs)
        except KeyboardInterrupt as error:
            (out / "message").write_text(str(error))
            os._exit(130)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_goes_on_where_it_was(write, tmp_path, number):
    rates = [0.01, 0.02, 0.03]
    path = write(parameters={"learning_rate": {"values": rates}, "max_steps": {"value": 8}})
    (tmp_path / "hold").touch()
    out = tmp_path / "out"
    process = run_apart(path, out, 3)
    checkpoints = [out / f"trial-{n}" / "checkpoint" for n in (0, 1)]
    wait_for(lambda: all(c.exists() and c.read_text() == "3" for c in checkpoints))
    os.kill(process.pid, number)
    process.join(60)
    assert states(out)[:2] == ["RUNNING", "RUNNING"]
    if number == signal.SIGKILL:
        assert len(find_processes(out)) == 2, "nobody was left to stop them"
    else:
        assert process.exitcode == 130
        assert (out / "message").read_text().startswith("0 of 3 trials have ended; the same command continues")
        assert not find_processes(out)
    (tmp_path / "hold").unlink()
    run(read_sweep(path), out, 3, jobs=2)
    trials = study_in(out).trials
    assert states(out) == ["COMPLETE"] * 3
    assert [trial.params["learning_rate"] for trial in trials] == rates
    assert [trial.value for trial in trials] == [0.08, 0.16, 0.24]
    for trial in trials[:2]:
        lines = (out / f"trial-{trial.number}" / "log.txt").read_text().splitlines()
        begins = [int(line.split()[2]) for line in lines if line.startswith("begins")]
        assert begins == [0, 3], "from its checkpoint"
        assert sorted(trial.intermediate_values) == list(range(9))
    assert not find_processes(out)
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]


def test_a_trial_that_a_second_signal_kills_is_resumed_and_not_complete(write, tmp_path):
    """Trial 1 begins late, is hopeless and takes its time to stop; meanwhile trial 2, looked at after it, is killed."""
    path = write(
        parameters={"learning_rate": {"values": [0.02, 0.002, 0.03]}, "max_steps": {"value": 9}},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 3},
    )
    script = tmp_path / "trial.py"
    late = 'if given["learning_rate"] == "0.002":\n    time.sleep(2)\nfor step in range('
    script.write_text(script.read_text(encoding="utf-8").replace("for step in range(", late), encoding="utf-8")
    slow = '    if given["learning_rate"] == "0.002":\n        time.sleep(3)\n    sys.exit(130)'
    script.write_text(script.read_text(encoding="utf-8").replace("    sys.exit(130)", slow), encoding="utf-8")
    (tmp_path / "hold").touch()
    out = tmp_path / "out"
    process, log = run_apart(path, out, 3, jobs=3), out / "trial-1" / "log.txt"
    wait_for(lambda: log.exists() and "stopped with" in log.read_text())
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
    process.join(60)
    assert process.exitcode == 130
    assert states(out) == ["RUNNING", "PRUNED", "RUNNING"]
    assert not find_processes(out)


def test_a_sweep_leaves_the_trials_of_another_in_a_folder_below_alone(write, tmp_path):
    path = write(parameters={"learning_rate": {"values": [0.01, 0.02]}, "max_steps": {"value": 8}})
    (tmp_path / "hold").touch()
    process = run_apart(path, tmp_path / "outer" / "inner", 1)
    wait_for(lambda: find_processes(tmp_path / "outer" / "inner"))
    assert not find_processes(tmp_path / "outer")
    stop(tmp_path / "outer")
    assert find_processes(tmp_path / "outer" / "inner")
    os.kill(process.pid, signal.SIGINT)
    process.join(60)


def test_the_number_of_trials_is_that_of_the_command_or_else_of_the_file(write, tmp_path, monkeypatch):
    path = write(method="random", parameters={"learning_rate": {"min": 0.01, "max": 0.02}}, run_cap=2)
    numbers = []
    monkeypatch.setattr(sweeping, "run", lambda sweep, folder, number, **_: numbers.append(number))
    for trials in (None, 1, 5):
        sweep(path, local=True, trials=trials, output=tmp_path / "out")
    assert numbers == [2, 1, 5]


def test_two_sweeps_in_one_folder(write, tmp_path):
    out = tmp_path / "out"
    slow = write(parameters={"learning_rate": {"value": 0.01}, "seed": {"values": [1, 2]}})
    (tmp_path / "hold").touch()
    process = run_apart(slow, out, 1)
    wait_for(lambda: (out / "trial-0" / "log.txt").exists())
    with pytest.raises(NerError, match=str(process.pid)) as error:
        run(read_sweep(slow), out, 1)
    assert error.value.place == out
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    before = states(out)
    other = write(parameters={"learning_rate": {"values": [0.01, 0.5]}})
    with pytest.raises(NerError, match="in parameters") as error:
        run(read_sweep(other), out, 1)
    assert error.value.place == out
    assert "--output" in error.value.remedy
    assert states(out) == before


def test_an_error_of_the_sweep_itself_leaves_its_trials_to_be_resumed(write, tmp_path, monkeypatch):
    path, out = write(), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "read_evaluations", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(read_sweep(path), out, 2, jobs=2)
    assert "FAIL" not in states(out)
    assert not find_processes(out)
    run(read_sweep(path), out, 2)
    assert states(out) == ["COMPLETE"] * 2


def test_a_journal_with_a_torn_last_line_is_read_on(write, tmp_path):
    """As a full disk leaves it."""
    path, out = write(), tmp_path / "out"
    run(read_sweep(path), out, 1)
    with (out / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code":4,"wor')
    run(read_sweep(path), out, 2)
    assert states(out) == ["COMPLETE"] * 2


def test_neither_wandb_nor_torch_is_loaded_by_a_search_and_a_missing_optuna_is_named(write, tmp_path):
    path = write()
    code = """
import sys, pathlib
from qwen_ner.sweep import outcome
from qwen_ner.sweep import run as sweeping
from qwen_ner.sweep.sweep_file import read_sweep
sys.modules["wandb"] = None
read = read_sweep(pathlib.Path(sys.argv[1]))
import qwen_ner.sweep.outcome as outcome
outcome.report = lambda *_: "done"
sweeping.run(read, pathlib.Path(sys.argv[2]), 1)
print(sorted({"torch", "transformers"} & set(sys.modules)))
sys.modules["optuna"] = None
sweeping.run(read, pathlib.Path(sys.argv[2]), 1)
"""
    done = subprocess.run([sys.executable, "-c", code, path, tmp_path / "out"], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["done", "[]"], done.stderr
    assert f"NerError: --local needs Optuna; {install_line('sweep')}" in done.stderr


# For real


@pytest.mark.slow
def test_a_sweep_of_real_trainings(tiny, tmp_path):
    """The command that ships, on the CPU: two trials, one fails; the best recipe is launched as it stands. All are forks."""
    write_rows(tmp_path, "train", "dev")
    given = {
        "model_name_or_path": str(tiny), "dataset": str(tmp_path), "validation_rows": 4, "max_steps": 4, "eval_strategy": "steps",
        "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_new_tokens": 4, "examples": [], "lora_r": 4,
    }  # fmt: skip
    recipe = (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8").split('r"""')[0]
    base = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    values = {key: value for key, value in base.items() if key != LAUNCHER_KEY} | given
    program = tmp_path / "small.yaml"
    program.write_text(f'{recipe}r"""\n{yaml.safe_dump(values, allow_unicode=True)}# """\n', encoding="utf-8")
    shipped = yaml.safe_load((ROOT / "recipes" / "sweep.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "sweep.yaml"
    shipped |= {"program": str(program), "method": "grid", "early_terminate": None}
    shipped["parameters"] = {
        "lora_target_modules": {"values": [["q_proj", "v_proj"], ["no_such_layer"]]},
        "bf16": {"value": False},
    }
    out = tmp_path / "out"
    qwen_ner = [sys.executable, "-m", "qwen_ner", "sweep", path, "--local", "--trials", "2", "--output", out]
    with launcher() as accelerate_launch:
        shipped["command"][:4] = [*accelerate_launch, "--config_file", str(ROOT / "accelerate_configs" / "cpu.yaml")]
        path.write_text(yaml.safe_dump(shipped))
        done = warm_python.run(qwen_ner, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    complete, failed = study_in(out).trials
    assert (complete.state, failed.state) == (TrialState.COMPLETE, TrialState.FAIL)
    assert sorted(complete.intermediate_values) == [0, 1, 2]
    assert "lora_target_modules: " in done.stderr, "the trial's own error, from the end of its log"
    state = json.loads((out / "trial-0" / "trainer_state.json").read_text())
    assert complete.value == pytest.approx(state["best_metric"], abs=5e-5)
    adapter = json.loads((out / "trial-0" / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == ["q_proj", "v_proj"]
    assert not list(tmp_path.glob("**/wandb"))
    *launch, config, best = shlex.split(done.stdout.splitlines()[-1])
    assert (launch, best) == ([*accelerate_launch, "--config_file"], str(out / "best.yaml"))
    done = warm_python.launch(ROOT / config, [best], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (out / "best" / "adapter_model.safetensors").read_bytes() == (
        out / "trial-0" / "adapter_model.safetensors"
    ).read_bytes()
