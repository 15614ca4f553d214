"""What the trackers are told, read back from what they wrote; and that none of them stops a training."""

import json
import logging
import os
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from read_wandb_run import load
from rows import EIGHT, ROOT
from warm_python import warm_python

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.entities import NerError
from qwen_ner.training.doctor.machine import check_report_to
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train
from qwen_ner.training.tracking.wandb_names import best_of, project, run_name
from qwen_ner.training.tracking.wandb_run import WandbTracking

wandb = pytest.importorskip("wandb")

KEY = "a" * 40


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny):
    """Eight steps of the two-layer model on eight rows, scored twice."""
    folder = tmp_path_factory.mktemp("recipe")
    rows = [type(gold)(f"{i}-{k}", gold.text, gold.entities) for k in range(3) for i, gold in enumerate(EIGHT)]
    write_jsonl(folder / "data" / "train.jsonl", rows)
    write_jsonl(folder / "data" / "dev.jsonl", [row for row in rows if row.id.endswith("-0")][:5])
    values = {
        "model_name_or_path": str(tiny), "dataset": str(folder / "data"), "max_new_tokens": 16,
        "max_steps": 8, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True,
        "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4, "logging_steps": 4,
        "report_to": ["wandb"],
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


class Environment:
    """This process's environment and working folder, as another process would start with them."""

    def __init__(self, folder, patch):
        self.folder, self.patch = folder, patch
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(folder))  # no login of this machine
        patch.setenv("NETRC", str(folder / "netrc"))
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("WANDB_DATA_DIR", str(folder / "staging"))
        patch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
        patch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
        patch.setenv("WANDB_SILENT", "true")
        patch.chdir(folder)

    def __call__(self, **values):
        for name, value in values.items():
            self.patch.setenv(name, value)
        wandb.teardown()  # it reads the environment once a process

    def runs(self):
        return sorted(self.folder.glob("wandb/*run-*"))


@pytest.fixture
def environment(tmp_path, monkeypatch):
    yield Environment(tmp_path, monkeypatch)
    wandb.teardown()


@pytest.fixture(scope="module")
def tracked(recipe, tmp_path_factory):
    """(folder of the model, folder of the wandb run, what it holds) of a training with both trackers."""
    with pytest.MonkeyPatch.context() as patch:
        environment = Environment(tmp_path_factory.mktemp("tracked"), patch)
        environment(WANDB_MODE="offline", WANDB_LOG_MODEL="end")
        git = ["git", "-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "m"], check=True)
        out = environment.folder / "outputs" / "named"
        longer = ["--max_steps", "20", "--eval_steps", "10", "--save_steps", "10"]
        train(load_recipe(recipe, ["--report_to", "wandb", "tensorboard", "--output_dir", str(out), *longer]))
        assert wandb.run is None, "the next training of this process would write into it"
        wandb.teardown()
        (run,) = environment.runs()
    (file,) = run.glob("*.wandb")
    return out, run, load(file)


def state_of(out):
    return json.loads((out / "trainer_state.json").read_text())


def test_each_evaluation_is_logged_once_with_every_label_and_problem(tracked):
    out, _, logged = tracked
    expected = [entry for entry in state_of(out)["log_history"] if "eval_f1" in entry]
    found = [row for row in logged["history"] if "eval/f1" in row]
    assert [row["train/global_step"] for row in found] == [entry["step"] for entry in expected] == [10, 20]
    for row, entry in zip(found, expected, strict=True):
        scores = {key: value for key, value in entry.items() if key.startswith("eval_")}
        assert {key: row[key.replace("eval_", "eval/", 1)] for key in scores} == scores
        labels = {key for key in row if key.startswith("eval/f1_")}
        assert {f"eval/f1_{label}" for label in logged["config"]["data"]["label_names"]} == labels
        assert {"eval/span_f1", "eval/macro_f1", "eval/not_json", "eval/truncated", "eval/not_in_text"} <= row.keys()
    names = [key for row in logged["history"] for key in row if not key.startswith(("train/", "_", "eval/"))]
    assert len(names) == len(set(names)), "what is said once a run"


def test_the_config_is_the_recipe_and_says_which_data(tracked, recipe):
    out, _, logged = tracked
    config = logged["config"]
    written = yaml.safe_load((out / "recipe.yaml").read_text())
    assert {key: config[key] for key in written} == written
    assert config["lora_r"] is None
    assert config["model_type"] == "qwen2"
    assert config["model/num_parameters"] > 0
    ner_config = json.loads((out / "ner_config.json").read_text())
    assert config["data"] == {
        "fingerprint": ner_config["data_fingerprint"], "label_names": [label["name"] for label in ner_config["labels"]],
        "train_rows": 24, "validation_rows": 5, "test_rows": 0,
    }  # fmt: skip


def test_the_summary_says_the_best_and_the_final_scores(tracked):
    out, _, logged = tracked
    summary, state = logged["summary"], state_of(out)
    best = next(
        entry for entry in state["log_history"] if entry["step"] == state["best_global_step"] and "eval_f1" in entry
    )
    for name in ("f1", "span_f1", "macro_f1"):
        assert summary[f"best/{name}"] == best[f"eval_{name}"]
    assert summary["best/step"] == state["best_global_step"]
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    assert {name: value for name, value in metrics.items() if summary.get(f"dev/{name}") != value}.keys() == {
        "seen_f1", "unseen_f1", "seen_support", "unseen_support",
    }  # fmt: skip


def test_the_worst_predictions_stand_beside_gold(tracked):
    out, run, logged = tracked
    rows = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    table = media(run, last(logged, "dev/worst_predictions"))
    assert table["columns"] == ["text", "gold", "predicted", "errors", "wrong", "source"]
    assert [row[0] for row in table["data"]] == [row["text"] for row in rows]
    assert [len(row[3].splitlines()) >= len(of["errors"]) for row, of in zip(table["data"], rows, strict=True)]
    wrong = [row[4] for row in table["data"]]
    assert wrong == sorted(wrong, reverse=True)
    assert "eval/worst_predictions" in logged["summary"]
    expected = {row.text: "\n".join(f"{e.label} {e.text} [{e.start}, {e.end})" for e in row.entities) for row in EIGHT}
    assert {row[0]: row[1] for row in table["data"]}.items() <= expected.items()


def test_the_confusion_matrix_has_every_label(tracked):
    out, run, logged = tracked
    matrix = json.loads((out / "metrics.json").read_text())["confusion"]
    table = media(run, last(logged, "dev/confusion_table"))
    found = {(gold, given): count for gold, given, count in table["data"]}
    assert found == {(gold, given): count for gold, row in matrix.items() for given, count in row.items()}


def test_the_lengths_of_answers(tracked):
    _, _, logged = tracked
    for name in ("eval/answer_tokens", "dev/answer_tokens"):
        histogram = last(logged, name)
        assert sum(histogram["values"]) == 5
        assert len(histogram["bins"]) == len(histogram["values"]) + 1
    assert last(logged, "eval/answer_tokens")["bins"][-1] <= 17 + 1, "max_new_tokens and the end token"


def last(logged, name):
    return [row[name] for row in logged["history"] if name in row][-1]


def media(run, value):
    return json.loads((run / "files" / value["path"]).read_text())


def test_the_run_is_named_and_knows_its_commit(tracked):
    out, _, logged = tracked
    assert logged["run"][:2] == ("qwen-ner", "named")
    assert logged["exit"] == 0
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=out, capture_output=True, text=True, check=True).stdout
    assert logged["run"][-1] == commit.strip()


def test_model_and_report_are_artifacts_on_demand(tracked):
    _, _, logged = tracked
    (model,), (report,) = logged["artifacts"]["model"], logged["artifacts"]["report"]
    assert {"model.safetensors", "ner_config.json", "tokenizer.json", "generation_config.json"} <= model
    assert report == {"report.html", "metrics.json", "predictions.jsonl", "errors.jsonl", "recipe.yaml"}
    assert not any(name.startswith(("checkpoint", "training_args")) for name in model)


def test_tensorboard_gets_the_scalars(tracked):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_multiplexer")
    out, _, logged = tracked
    events = accumulator.EventMultiplexer().AddRunsFromDirectory(str(out / "runs")).Reload()
    found = {}
    for run in events.Runs():
        for tag in events.Runs()[run]["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(run, tag))
    of_wandb = [(row["train/global_step"], row["eval/f1"]) for row in logged["history"] if "eval/f1" in row]
    assert found["eval/f1"] == [(step, pytest.approx(value)) for step, value in of_wandb]
    assert found["dev/f1"] == [(20, pytest.approx(logged["summary"]["dev/f1"]))]
    assert {"train/loss", "eval/span_f1", "eval/macro_f1", "eval/f1_address"} <= found.keys()


@pytest.mark.slow
def test_two_ranks_are_one_run(recipe, environment):
    environment(WANDB_MODE="offline", WANDB_RUN_ID="gone-on-with", WANDB_LOG_MODEL="checkpoint")
    config = ROOT / "accelerate_configs" / "cpu_2proc.yaml"
    command = ["-m", "qwen_ner", "train", recipe, "--output_dir", environment.folder / "out",
               "--per_device_train_batch_size", "2", "--max_steps", "4"]  # fmt: skip
    done = warm_python.launch(config, command)
    assert done.returncode == 0, done.stderr
    (run,) = environment.runs()
    assert run.name.startswith("offline-run-")
    assert run.name.endswith("-gone-on-with")
    logged = load(next(run.glob("*.wandb")))
    assert [row["train/global_step"] for row in logged["history"] if "eval/f1" in row] == [4]
    assert logged["summary"]["best/step"] == 4
    assert sum(last(logged, "dev/answer_tokens")["values"]) == 5, "of both ranks"
    checkpoint, final = logged["artifacts"]["model"]
    assert {"model.safetensors", "ner_config.json", "optimizer.pt", "trainer_state.json"} <= checkpoint
    assert "optimizer.pt" not in final


class Server(BaseHTTPRequestHandler):
    """A stand-in for wandb's server: `status` to every question, and with 200 as much as a run needs."""

    status = 200

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        query = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        name = json.loads(query).get("variables", {}).get("name") if "upsertBucket" in query else None
        entity = {"id": "e", "name": "tester"}
        answers = {
            "upsertBucket": {"upsertBucket": {"inserted": True, "bucket": {
                "id": "b", "name": name, "displayName": name, "description": None, "config": "{}", "sweepName": None,
                "historyLineCount": 0, "project": {"id": "p", "name": "qwen-ner", "entity": entity}}}},
            "viewer": {"viewer": {"id": "u", "username": "tester", "email": "t@t", "entity": "tester", "flags": "{}",
                                  "teams": {"edges": []}, "apiKeys": {"edges": []}}},
        }  # fmt: skip
        answer = next(({"data": data} for key, data in answers.items() if key in query), {"data": {}})
        if self.status != 200:
            answer = {"errors": [{"message": {401: "user is not logged in", 404: "project not found"}[self.status]}]}
        body = json.dumps(answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    """A function that starts a server of one status and gives it, with its address."""
    started = []

    def start(status):
        one = ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (Server,), {"status": status}))
        threading.Thread(target=one.serve_forever, daemon=True).start()
        started.append(one)
        return one, f"http://127.0.0.1:{one.server_port}"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("wandb ")]


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (None, "log in with `wandb login` or WANDB_API_KEY"),
        (401, "log in with `wandb login` or WANDB_API_KEY"),
        (404, "WANDB_ENTITY and WANDB_PROJECT exist"),
    ],
)
def test_a_wandb_that_cannot_start_says_what_to_do_and_starts_a_run_on_disk(
    recipe, environment, server, caplog, status, remedy
):
    address = server(status)[1] if status else "http://127.0.0.1:9"
    environment(WANDB_BASE_URL=address, WANDB_INIT_TIMEOUT="2", **({"WANDB_API_KEY": KEY} if status else {}))
    loaded = load_recipe(recipe, ["--output_dir", str(environment.folder / "out")])
    with caplog.at_level(logging.WARNING):
        run = WandbTracking(loaded, None, None, "dev")._start(loaded.training)
    run.finish()
    (message,) = said(caplog)
    assert remedy in message
    assert message.endswith(f"wandb sync {environment.runs()[0]}")


def test_a_training_without_its_wandb_server_is_whole_and_its_run_kept_on_disk(recipe, environment, caplog):
    environment(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_INIT_TIMEOUT="2", WANDB_API_KEY=KEY)
    out = environment.folder / "out"
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        train(load_recipe(recipe, ["--output_dir", str(out), "--max_steps", "4"]))
    assert time.monotonic() - started < 60
    wandb.teardown()  # its file is whole when its process has ended
    (message,) = said(caplog)
    assert "wandb could not start for project qwen-ner at 127.0.0.1:" in message
    assert "whether the server can be reached" in message
    (file,) = Path(message.rpartition("wandb sync ")[2]).glob("*.wandb")
    logged = load(file)
    assert [row["train/global_step"] for row in logged["history"] if "eval/f1" in row] == [4]
    assert (out / "metrics.json").is_file()


@pytest.fixture
def after_start(monkeypatch):
    """Gives a function that has another called once wandb has started."""

    def arrange(act):
        start = wandb.init

        def start_and_act(**options):
            run = start(**options)
            act()
            return run

        monkeypatch.setattr(wandb, "init", start_and_act)

    return arrange


@pytest.mark.slow
def test_a_server_that_dies_while_training_stops_nothing(recipe, environment, server, caplog, after_start):
    one, address = server(200)
    tries = {"WANDB_X_GRAPHQL_RETRY_MAX": "1", "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "1"}
    environment(WANDB_BASE_URL=address, WANDB_API_KEY=KEY, WANDB_FINISH_TIMEOUT="3", **tries)
    after_start(lambda: (one.shutdown(), one.server_close()))
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        train(load_recipe(recipe, ["--output_dir", str(environment.folder / "out")]))
    assert time.monotonic() - started < 120
    wandb.teardown()
    (message,) = said(caplog)
    assert "to log its tables at step 4" in message
    (run,) = environment.runs()
    assert run.name.startswith("run-")
    logged = load(next(run.glob("*.wandb")))
    assert [row["train/global_step"] for row in logged["history"] if "eval/f1" in row] == [4, 8]
    assert "dev/f1" in logged["summary"]
    assert (environment.folder / "out" / "metrics.json").is_file()


def test_a_wandb_that_dies_while_training_stops_nothing(recipe, environment, caplog, after_start):
    environment(WANDB_MODE="offline")

    def kill():
        services = [child for child in psutil.Process().children(recursive=True) if "wandb" in child.name()]
        assert services
        for service in services:
            service.kill()
            service.wait()

    after_start(kill)
    with caplog.at_level(logging.WARNING):
        train(load_recipe(recipe, ["--output_dir", str(environment.folder / "out"), "--max_steps", "4"]))
    (message,) = said(caplog)
    assert message.startswith("wandb stopped working (")
    assert "Training continues without it" in message
    assert message.endswith(f"wandb sync {environment.runs()[0]}")
    assert (environment.folder / "out" / "metrics.json").is_file()


def test_wandb_disabled_is_no_run(recipe, environment, caplog):
    environment(WANDB_MODE="disabled")
    with caplog.at_level(logging.WARNING):
        train(load_recipe(recipe, ["--output_dir", str(environment.folder / "out"), "--max_steps", "4"]))
    assert not said(caplog)
    assert not environment.runs()


def test_a_missing_tracker_is_refused_before_anything_is_read(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("qwen_ner.training.doctor.machine.find_spec", lambda name: None)
    with pytest.raises(NerError) as error:
        check_report_to(["wandb"])
    assert error.value.remedy == "pip install wandb, or report_to: none"
    values = ["--output_dir", str(tmp_path / "out"), "--dataset", "nowhere", "--report_to", "wandbb"]
    with pytest.raises(NerError) as error:
        train(load_recipe(recipe, values))
    assert (error.value.place, error.value.value, error.value.remedy) == ("report_to", "wandbb", "did you mean wandb?")


def test_names(monkeypatch):
    args = SimpleNamespace(run_name=None, output_dir="outputs/lora_r32")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert project(SimpleNamespace(project="mine")) == "mine"
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert project(SimpleNamespace(project="mine")) == "theirs"
    assert run_name(args, {}) == "lora_r32"
    assert run_name(args, {"WANDB_NAME": "x"}) is None
    args.run_name = "r"
    assert run_name(args, {"WANDB_NAME": "x"}) == "r"
    assert run_name(args, {"WANDB_SWEEP_ID": "s"}) is None, "trials would all have the recipe's name"


def test_the_best_is_of_the_metric_that_chooses_the_checkpoint():
    history = [
        {"step": step, "eval_f1": f1, "eval_span_f1": 1 - f1, "eval_macro_f1": f1, "eval_loss": loss}
        for step, f1, loss in ((0, 0.9, 0.1), (5, 0.5, 3.0), (10, 0.6, 2.0), (15, 0.6, 1.0))
    ]
    assert best_of(history, "f1")["step"] == 15, "of equals that with the lowest loss"
    assert best_of(history, "eval_span_f1")["step"] == 5
    assert best_of(history, "eval_loss", greater=False)["step"] == 15
    assert best_of(history[:1], "f1")["step"] == 0
    assert best_of([{"step": 5, "loss": 1.0}], "f1") == {}
