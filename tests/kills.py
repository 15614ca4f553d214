"""Trainings that are killed at a chosen moment, and what the same command makes of what is left.

    python tests/kills.py --kills 20 --seed 0 --json kills.json

Each kind of kill is tried in turn, until there were so many; the seed draws the step and the delay. What is compared
with an uninterrupted training: scores, predictions, the log of all evaluations, and the weights bit for bit.
A training in one process is forked off this one, which spares it the imports; it is killed by real signals, at a moment
that is seen from outside: a file that appears, a line that is printed.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import conftest
import psutil
from fake_hub import TOKEN, FakeHub
from rows import EIGHT, ROOT
from safetensors.torch import load_file

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.training.tiny import make_tiny

MARK = "QWEN_NER_KILLS"
RESUMED = {"loss", "train_loss"}
"""Means of the training loss, which after a resume cover the steps since then."""

TIMES = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "train_runtime",
         "train_samples_per_second", "train_steps_per_second"}  # fmt: skip


def small_recipe(place, base=None, steps=20):
    """A recipe of a small model and 16 rows: 8 steps of two rows an epoch. `base` is what a training wrote: with it some
    answers are right, some wrong, and which changes. There is dropout, so that random numbers count."""
    rows = [type(gold)(f"{i}-{k}", gold.text, gold.entities) for k in range(3) for i, gold in enumerate(EIGHT)]
    write_jsonl(place / "train.jsonl", rows[8:])
    write_jsonl(place / "dev.jsonl", rows[:8])
    write_jsonl(place / "test.jsonl", rows[:3])
    model = place / "model"
    if base is None:
        make_tiny(model, layers=2, hidden=64, dropout=0.1)
    else:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(base, model, ignore=shutil.ignore_patterns("checkpoint-*", "*.html", "*.jsonl", "*.bin"))
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.1}))
    path = place / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {model}\ndataset: {place}\nsystem_prompt: 找出实体\nexamples: [去西湖]\n"
        f"use_cpu: true\nper_device_train_batch_size: 2\nlearning_rate: 5e-3\nlogging_steps: 3\nseed: 7\nmax_steps: {steps}\n"
        "per_device_eval_batch_size: 3\nmax_new_tokens: 24\nreport_to: none\nsave_total_limit: 2\n",
        encoding="utf-8",
    )
    return path


def ends(folder):
    """What a training comes to: its scores, its predictions, its log, and the weights of its best and last step."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("seconds", "train_loss"):
        del metrics["training"][name]
    metrics["contract"]["model"] = ""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    log = [{key: value for key, value in entry.items() if key not in TIMES | RESUMED} for entry in log]
    weights = load_file(folder / "model.safetensors")
    if (last := folder / f"checkpoint-{metrics['training']['steps']}").exists():  # gone where one checkpoint is kept
        weights |= {f"last {name}": weight for name, weight in load_file(last / "model.safetensors").items()}
    return {
        "scores": metrics,
        "log": log,
        "predictions": (folder / "predictions.jsonl").read_text(),
        "weights": {name: weight.numpy().tobytes() for name, weight in weights.items()},
    }


def differences(folder, other):
    """The parts that two trainings do not have in common."""
    one, two = ends(folder), ends(other)
    return [name for name in one if one[name] != two[name]]


ALONE = "from qwen_ner import cli; from qwen_ner.training import run; run.use_cores = lambda args: None; cli.main()"
"""A command with one thread: more would wait for each other beside other work."""


class Run:
    """A training in `out`, in processes of its own."""

    def __init__(self, out, argv, hub=None, ranks=1):
        self.out, self.log = out, out.parent / f"{out.name}.log"
        self.mark, self.hub, self.killed = str(out), hub, None
        if ranks == 0:
            command = [sys.executable, "-m", "qwen_ner", *argv]
        else:
            config = ROOT / "accelerate_configs" / "cpu_2proc.yaml"
            command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config,
                       "-m", "qwen_ner", *argv]  # fmt: skip
        if ranks == 1:
            self.process, self.pid = None, self._fork(argv)
            return
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, start_new_session=True,
                                            env=os.environ | {MARK: self.mark, "PYTHONPATH": str(ROOT)})  # fmt: skip
        self.pid = self.process.pid

    def _fork(self, argv):
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        os.setsid()
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, "utf-8") for n in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from qwen_ner import cli
        from qwen_ner.training import run

        run.use_cores = lambda args: None  # two threads would wait for each other beside other work
        code = 1
        try:
            with conftest.reaching(self.hub, self.out.parent / "hub_cache") if self.hub else nullcontext():
                cli.main([str(arg) for arg in argv])
            code = 0
        except SystemExit as stopped:
            if isinstance(stopped.code, str):
                print(stopped.code, file=sys.stderr)
            code = stopped.code if isinstance(stopped.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def processes(self):
        """Those that are alive."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                of_ours = os.getsid(process.pid) == self.pid if self.process is None else None
                if of_ours or process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def ranks(self):
        """The process of each rank, first rank first."""
        ranked = [(env["RANK"], p) for p in self.processes() if "RANK" in (env := p.environ())]
        return [process for _, process in sorted(ranked, key=lambda pair: pair[0])]

    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def ended(self):
        """The exit code, negative for a signal; None while it runs."""
        if self.process is not None:
            return self.process.poll()
        if self.killed is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.killed = os.waitstatus_to_exitcode(status) if done else None
        return self.killed

    def wait(self, seconds=240):
        limit = time.monotonic() + seconds
        while self.ended() is None and time.monotonic() < limit:
            time.sleep(0.01)
        return self.ended()

    def until(self, holds):
        """Wait until it holds; return False where the process ended before."""
        while not holds():
            if self.ended() is not None:
                return False
            time.sleep(0.0005)
        return True


def appears(pattern):
    return lambda run, step: run.until(lambda: any(run.out.glob(pattern.format(step=step))))


def evaluation(run, step):
    """Training loss of this step has been printed, so its evaluation comes next."""
    return run.until(lambda: f"step {step}/20 · loss" in run.said()) and not time.sleep(random.uniform(0, 0.05))


def some_time(run, step):
    begun = run.until(lambda: "trained until" in run.said() or (run.out / "recipe.yaml").exists())
    return begun and not time.sleep(random.uniform(0, 1.5))


def trials_save(run, step):
    return run.until(lambda: any(run.out.glob(f"trial-1/.checkpoint.partial/checkpoint-{step}")))


def group(number, times=1):
    def send(run):
        for n in range(times):
            with suppress(ProcessLookupError):
                os.killpg(run.pid, number)
            time.sleep(0.02 * (n + 1 < times))

    return send


def alone(number):
    return lambda run: os.kill(run.pid, number)


def rank(n, number):
    return lambda run: run.ranks()[n].send_signal(number)


SAVE, KILL, TERM, INT = ".checkpoint.partial/checkpoint-{step}", signal.SIGKILL, signal.SIGTERM, signal.SIGINT

KINDS = {  # name: (moment, how it is killed, what is run)
    "SIGKILL at some time": (some_time, group(KILL), "one"),
    "SIGKILL as a save begins": (appears(SAVE), group(KILL), "one"),
    "SIGKILL as the optimizer is saved": (appears(f"{SAVE}/optimizer.pt"), group(KILL), "one"),
    "SIGKILL as the state is saved": (appears(f"{SAVE}/trainer_state.json"), group(KILL), "one"),
    "SIGKILL as a checkpoint has its name": (appears("checkpoint-{step}"), group(KILL), "one"),
    "SIGKILL as an old checkpoint goes": (appears(".checkpoint.partial/removed-*"), group(KILL), "one"),
    "SIGKILL in an evaluation": (evaluation, group(KILL), "one"),
    "SIGKILL as the best model is saved": (appears("model.safetensors"), group(KILL), "one"),
    "SIGKILL in a push": (appears(".pushing.*.partial"), group(KILL), "push"),
    "SIGTERM at some time": (some_time, group(TERM), "one"),
    "SIGTERM in a save": (appears(SAVE), group(TERM), "one"),
    "SIGTERM in an evaluation": (evaluation, group(TERM), "one"),
    "SIGTERM in a push": (appears(".pushing.*.partial"), group(TERM), "push"),
    "SIGINT at some time": (some_time, group(INT), "one"),
    "SIGINT twice in a save": (appears(SAVE), group(INT, times=2), "one"),
    "SIGKILL of the second of two ranks": (appears("checkpoint-{step}"), rank(1, KILL), "two"),
    "SIGKILL of the first of two ranks in a save": (appears(SAVE), rank(0, KILL), "two"),
    "SIGTERM to the launcher of two ranks": (appears("checkpoint-{step}"), alone(TERM), "two"),
    "SIGKILL of the launcher of two ranks": (appears("checkpoint-{step}"), alone(KILL), "two"),
    "SIGKILL of a sweep in a trial's save": (trials_save, alone(KILL), "sweep"),
    "SIGTERM to a sweep": (trials_save, alone(TERM), "sweep"),
}  # fmt: skip


class Kills:
    """Kills trainings in `place` and keeps the uninterrupted ones that they are compared with."""

    def __init__(self, place):
        self.place = place
        self.recipe = small_recipe(place)
        self.hub, self.whole = None, {}
        base = Run(place / "base", ["train", self.recipe, "--per_device_train_batch_size", "8", "--max_steps", "40", "--learning_rate", "1e-2",
                                    "--lr_scheduler_type", "constant", "--output_dir", place / "base"])  # fmt: skip
        assert base.wait() == 0, base.said()
        self.recipe = small_recipe(place, base.out)

    def start(self, what, out):
        steps = ["--eval_strategy", "steps", "--eval_steps", "5", "--save_strategy", "steps", "--save_steps", "5"]
        train = ["train", self.recipe, *steps, "--logging_steps", "5", "--output_dir", out]
        if what == "one":
            return Run(out, train)
        if what == "push":
            self.hub = self.hub or FakeHub()
            name = ["--push_to_hub", "true", "--hub_model_id", f"tester/{out.name}", "--hub_always_push", "true"]
            return Run(out, [*train, *name], hub=self.hub)
        if what == "two":
            return Run(out, [*train, "--per_device_train_batch_size", "1"], ranks=2)
        sweep = self.place / "sweep.yaml"
        command = [sys.executable, "-c", ALONE, *map(str, train[:-2]), "${args}"]
        sweep.write_text(json.dumps({
            "program": str(self.recipe), "method": "grid", "metric": {"name": "eval/f1", "goal": "maximize"},
            "parameters": {"learning_rate": {"values": [0.005, 0.01]}}, "command": command,
        }))  # fmt: skip
        return Run(out, ["sweep", sweep, "--local", "--output", out], ranks=0)

    def uninterrupted(self, what):
        if what not in self.whole:
            run = self.start(what, self.place / f"whole-{what}")
            assert run.wait() == 0, run.said()
            self.whole[what] = run.out
        return self.whole[what]

    def kill(self, name, n):
        """One kill of this kind, and the same command again. Returns what is to be said of both."""
        moment, how, what = KINDS[name]
        whole = self.uninterrupted(what)
        step = random.choice((5, 10, 15) if "old" not in name else (15,))
        run = self.start(what, self.place / f"{n}-{re.sub(r'[^a-zA-Z]+', '-', name)}")
        if not moment(run, step):
            return {"kind": name, "missed": True, "said": run.said()[-500:]}
        how(run)
        since = time.monotonic()
        code = run.wait()
        ended = time.monotonic() - since
        while (alive := run.processes()) and time.monotonic() - since < (60 if what != "sweep" else 0):
            time.sleep(0.05)
        gone = time.monotonic() - since
        folders = [""] if what != "sweep" else ["trial-0", "trial-1"]
        left = sorted(path.name for folder in folders for path in (run.out / folder).glob("checkpoint-*"))
        partial = sorted(str(path.relative_to(run.out)) for path in run.out.rglob(".*.partial"))
        before = len(run.said())
        again = self.start(what, run.out)
        resumed = again.wait()
        found = [] if resumed else [part for f in folders for part in differences(run.out / f, whole / f)]
        return {
            "kind": name, "step": step, "exit": code, "seconds to its end": round(ended, 2),
            "seconds to the last process's end": round(gone, 2), "alive": len(alive), "checkpoints": left,
            "left unfinished": partial, "resumed exit": resumed, "differences": found,
            "leftovers at the end": [str(p) for p in run.out.rglob(".*.partial")],
            "said": [line for line in again.said()[before:].splitlines() if re.search(r"Resuming|Skipping|removed unfinished|rror", line)][:6],
        }  # fmt: skip


def right(kill):
    """Whether a kill came to what it should: no process left, an exit code, the same end."""
    return not kill.get("missed") and not (
        kill["resumed exit"] or kill["differences"] or kill["leftovers at the end"] or kill["exit"] in (0, None)
        or (kill["alive"] and "sweep" not in kill["kind"])
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds that match this pattern")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="leave everything there")
    options = parser.parse_args()
    import qwen_ner.training.run  # noqa: F401 (before any fork)

    os.environ["HF_TOKEN"] = TOKEN
    kinds = [name for name in KINDS if re.search(options.only, name)]
    done = []
    with tempfile.TemporaryDirectory() if not options.keep else nullcontext(options.keep) as place:
        Path(place).mkdir(exist_ok=True)
        kills = Kills(Path(place))
        for n in range(options.kills):
            random.seed(f"{options.seed}-{n}")
            done.append(kills.kill(kinds[n % len(kinds)], n))
            print(json.dumps({"right": right(done[-1]), **done[-1]}, ensure_ascii=False), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, "kills": done}, ensure_ascii=False, indent=2))
    wrong = [kill["kind"] for kill in done if not right(kill)]
    print(f"{len(done) - len(wrong)} of {len(done)} kills came to the same end" + (f"; not: {wrong}" if wrong else ""))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
