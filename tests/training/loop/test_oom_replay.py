"""A training that runs out of memory takes the same steps in smaller parts."""

import logging
import os
import sys

import pytest
import torch
from rows import EIGHT, ROOT
from warm_python import warm_python

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.training.arguments import CHECKPOINTING
from qwen_ner.training.batches.collate import BatchRows, PaddedCollator, choose_collator
from qwen_ner.training.batches.step import StepTransform
from qwen_ner.training.batches.transforms import TRANSFORMS
from qwen_ner.training.loop.metrics import EntityMetrics
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


def runs_out(error=None):
    raise error or RuntimeError(CPU)


def limited(model, tokens, where="forward", error=None):
    """`model`, out of memory where its input has more than so many tokens; in the backward pass behind the head."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def before(module, args, kwargs):
        if kwargs["input_ids"].numel() > tokens:
            if where == "forward":
                runs_out(error)
            if torch.is_grad_enabled():
                # Reached when the gradients of the layers behind it have been added already.
                kwargs["inputs_embeds"] = base.get_input_embeddings()(kwargs.pop("input_ids"))
                kwargs["inputs_embeds"].requires_grad_()
                kwargs["inputs_embeds"].register_hook(lambda _: runs_out(error))
        return args, kwargs

    model.register_forward_pre_hook(before, with_kwargs=True)
    return model


@pytest.fixture
def make_trainer(tiny, tokenizer, tmp_path):
    def make(model=None, lora=None, shared=True, **options):
        codec = Codec(CLUENER, "找出实体")
        rows = build_dataset(EIGHT, codec, tokenizer)
        # In double precision where the model lets it (its norms and its loss are float32 all the same), and by SGD
        # unclipped: Adam would make a step of the order of the sums, and hide a gradient that is doubled.
        model = (model or load_model(str(tiny), lora=lora)).double()
        args = NerTrainingArguments(
            output_dir=str(tmp_path / "out"),
            **{
                "use_cpu": True, "optim": "sgd", "learning_rate": 1e-2, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
                "max_steps": 4, "seed": 3,
                "per_device_train_batch_size": 8, "eval_strategy": "no", "save_strategy": "no",
                "load_best_model_at_end": False, "report_to": "none", "logging_steps": 1, "disable_tqdm": True, **options,
            },
        )  # fmt: skip
        return NerTrainer(
            model=model, args=args, ner_config=NerConfig(CLUENER, "找出实体", 16, (2, 0)), processing_class=tokenizer,
            data_collator=choose_collator(model, 0) if shared else PaddedCollator(0), train_dataset=rows,
            eval_dataset=rows, compute_metrics=EntityMetrics(EIGHT, codec, tokenizer, (2, 0)),
        )  # fmt: skip

    return make


def trained(trainer):
    """The losses of the steps, and the weights behind them."""
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_alike(one, other):
    assert len(one[0]) == len(other[0]) > 0
    assert one[0] == pytest.approx(other[0], abs=1e-6)
    assert max(float((one[1][name] - other[1][name]).abs().max()) for name in other[1]) <= 1e-6


def said(caplog):
    return [record.getMessage() for record in caplog.records if "ran out of memory" in record.getMessage()]


def widest(trainer, rows=8):
    """Tokens of a batch of the first rows."""
    return trainer.data_collator([trainer.train_dataset[i] for i in range(rows)])["input_ids"].numel()


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_weights_are_those_of_a_training_that_never_failed(make_trainer, tiny, caplog, where, accumulation, lora):
    options = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    whole = make_trainer(lora=lora, **options)
    room = int(widest(whole, 8 // accumulation) * 0.7)
    expected = trained(whole)
    with caplog.at_level(logging.WARNING):
        halving = make_trainer(limited(load_model(str(tiny), lora=lora), room, where), **options)
        assert_alike(trained(halving), expected)
    assert halving.replay.rows_held < 8 // accumulation
    size, lines = 8 // accumulation, said(caplog)
    assert len(lines) <= accumulation  # once for every size, however often it is met
    assert f"a batch of {size} rows ran out of memory" in lines[-1]
    held = f"--per_device_train_batch_size {halving.replay.rows_held} --gradient_accumulation_steps {8 // halving.replay.rows_held}"
    assert held in lines[-1]


def test_padded_batches_are_halved_alike(make_trainer, tiny, caplog):
    whole = make_trainer(shared=False)
    room = widest(whole) // 2
    expected = trained(whole)
    halving = make_trainer(limited(load_model(str(tiny)), room), shared=False)
    assert_alike(trained(halving), expected)
    assert halving.replay.rows_held == 4


def test_what_the_failed_attempt_added_is_not_in_the_gradient(make_trainer, tiny):
    """The second batch of a step fails behind the first, whose gradients must be neither lost nor doubled."""
    options = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "train_sampling_strategy": "sequential",
    }
    whole = make_trainer(**options)
    sizes = [
        whole.data_collator([whole.train_dataset[i] for i in part])["input_ids"].numel()
        for part in (range(4), range(4, 8))
    ]
    assert sizes[0] < sizes[1], "the law says nothing where the first batch is the larger one"
    expected = trained(whole)
    halving = make_trainer(limited(load_model(str(tiny)), sizes[0], "backward"), **options)
    assert_alike(trained(halving), expected)
    assert halving.replay.rows_held == 2


def test_rows_that_were_left_out_of_the_loss_stay_out(make_trainer, tiny, monkeypatch):
    """As the rows are that fill up the last batch of several processes: their labels are gone when the step begins."""
    real = NerTrainer.training_step

    def shortened(self, model, inputs, number):
        rows = [{**row, "counted": i < 2} for i, row in enumerate(inputs["rows"].rows)]
        return real(self, model, {**self.data_collator(rows), "rows": BatchRows(rows)}, number)

    monkeypatch.setattr(NerTrainer, "training_step", shortened)
    whole = make_trainer()
    expected = trained(whole)
    halving = make_trainer(limited(load_model(str(tiny)), int(widest(whole) * 0.4)))
    assert_alike(trained(halving), expected)
    assert halving.replay.rows_held == 2


class Doubled(StepTransform):
    """A lever as a stranger would add it: this class and one line in the registry."""

    def loss(self, logits, targets, count, compute):
        return 2 * compute(logits, targets)

    def step(self, model, run):
        self.args.micro_batches = getattr(self.args, "micro_batches", 0) + 1
        return run()


def test_a_new_lever_is_one_class_and_one_line_and_meets_no_memory_logic(make_trainer, tiny, monkeypatch):
    """Twice the loss at half the learning rate is the same step of SGD, at once and in halves."""
    monkeypatch.setitem(TRANSFORMS, "doubled", Doubled)
    plain = make_trainer()
    losses, expected = trained(plain)
    for room in (10**9, int(widest(plain) * 0.7)):
        levered = make_trainer(
            limited(load_model(str(tiny)), room), step_transforms=["reduced_head", "doubled"], learning_rate=5e-3
        )
        found = trained(levered)
        assert_alike(([loss / 2 for loss in found[0]], found[1]), (losses, expected))
        assert levered.args.micro_batches >= 4 * (1 if levered.replay.rows_held is None else 2)
    assert levered.replay.rows_held == 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("not enough memory: you tried to allocate 9 bytes."),
    ],
)
def test_a_row_that_does_not_fit_alone_is_an_error_with_its_remedy(make_trainer, tiny, error):
    with pytest.raises(NerError, match="single row") as raised:
        make_trainer(limited(load_model(str(tiny)), 5, error=error)).train()
    assert raised.value.place == "step 1"
    assert f"{CHECKPOINTING}: true" in raised.value.remedy


def test_another_error_stays_what_it_is(make_trainer, tiny):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        make_trainer(
            limited(load_model(str(tiny)), 5, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        ).train()


def test_memory_that_ends_in_the_optimizer_is_explained(make_trainer, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_, **__: runs_out())
    with pytest.raises(NerError, match="apart from what the rows") as error:
        trainer.train()
    assert error.value.place == "step 1"
    assert "lora_r: 16" in error.value.remedy


def test_evaluation_gives_the_same_loss_and_scores_by_halves(make_trainer, tiny, caplog):
    whole = make_trainer()
    expected = whole.evaluate()
    room = int(widest(whole) * 0.7)
    halving = make_trainer(limited(load_model(str(tiny)), room))
    halving.batch_tokens = whole.batch_tokens
    with caplog.at_level(logging.WARNING):
        found = halving.evaluate()
        again = halving.evaluate()
    assert halving.replay.evaluated_rows_held == 4
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-6)
    same = [key for key in expected if not key.endswith(("loss", "second", "runtime", "time"))]
    assert [found[key] for key in same] == [expected[key] for key in same] == [again[key] for key in same]
    assert len([line for line in said(caplog) if "in an evaluation" in line]) == 1


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_sharded_training_is_told_what_to_ask_for(make_trainer, tiny, kind, monkeypatch):
    from accelerate.utils import DistributedType

    trainer = make_trainer(limited(load_model(str(tiny)), 5), gradient_accumulation_steps=3)
    monkeypatch.setattr("qwen_ner.training.loop.oom_replay.SHARDED", (DistributedType.NO,))
    with pytest.raises(NerError) as error:
        trainer.train()
    assert error.value.place == "step 1"
    assert "--per_device_train_batch_size 4 --gradient_accumulation_steps 6" in error.value.remedy


TWO = """
import sys, torch
import torch.distributed.nn.functional  # its defaults would hold a group that stands already, beyond the group's end
from pathlib import Path
sys.path.insert(0, "tests/training/loop")
from test_oom_replay import limited
from rows import EIGHT
from qwen_ner.cli import _leave_group
from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.loading import load_tokenizer
from qwen_ner.training.batches.collate import choose_collator
from qwen_ner.training.recipe import NerTrainingArguments
from qwen_ner.training.model import load_model
from qwen_ner.training.loop.trainer import NerTrainer

def main(tiny, out, where, accumulation, room):
    tokenizer, codec = load_tokenizer(tiny), Codec(CLUENER, "找出实体")
    args = NerTrainingArguments(
        output_dir=out, use_cpu=True, optim="sgd", learning_rate=1e-2, max_grad_norm=0.0, lr_scheduler_type="constant", max_steps=3, seed=3,
        per_device_train_batch_size=4 // int(accumulation), gradient_accumulation_steps=int(accumulation), eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False, report_to="none", disable_tqdm=True, logging_strategy="no",
        train_sampling_strategy="sequential",
    )
    model = load_model(tiny).double()
    collator = choose_collator(model, 0)
    if args.process_index == 1:
        limited(model, int(room), where)
    rows = build_dataset(EIGHT, codec, tokenizer)
    trainer = NerTrainer(model=model, args=args, ner_config=NerConfig(CLUENER, "找出实体", 16, (2, 0)), processing_class=tokenizer,
                         data_collator=collator, train_dataset=rows)
    try:
        trainer.train()
    except NerError as error:
        sys.stdout.write(f"TOLD {error}\\n")  # in one piece: both processes write
        sys.stdout.flush()
        raise SystemExit(1)
    if trainer.is_world_process_zero():
        torch.save(model.state_dict(), Path(out) / "weights.pt")
    sys.stdout.write(f"HELD {args.process_index} {trainer.replay.rows_held}\\n")

main(*sys.argv[1:])
_leave_group()
"""


def two_processes(tiny, out, where, accumulation, room):
    out.mkdir()
    command = [out / "two.py", tiny, out, where, accumulation, room]
    (out / "two.py").write_text(TWO, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return warm_python.launch(ROOT / "accelerate_configs" / "cpu_2proc.yaml", command, cwd=ROOT, env=env, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "accumulation"), [("forward", 1), ("backward", 2)])
def test_one_process_of_two_halves_alone_and_the_weights_are_the_same(tiny, tmp_path, where, accumulation):
    """With accumulation the first batch of a step fails, while no gradients are exchanged. The room is what the longest
    of its rows takes alone, or a little more."""
    whole = two_processes(tiny, tmp_path / "whole", where, accumulation, 10**9)
    assert whole.returncode == 0, whole.stderr[-3000:]
    halved = two_processes(tiny, tmp_path / "halved", where, accumulation, 58 if accumulation == 1 else 52)
    assert halved.returncode == 0, halved.stdout[-2000:] + halved.stderr[-3000:]
    assert "HELD 0 None" in halved.stdout
    assert "HELD 1 None" not in halved.stdout
    weights = [torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "halved")]
    assert max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0]) <= 1e-6


@pytest.mark.slow
def test_memory_that_ends_while_two_exchange_gradients_ends_both_and_says_what_to_ask_for(tiny, tmp_path):
    done = two_processes(tiny, tmp_path / "out", "backward", 1, 40)
    assert done.returncode != 0
    assert "while 2 processes exchange their gradients it cannot be halved" in done.stdout
    assert "--per_device_train_batch_size 2 --gradient_accumulation_steps 2" in done.stdout


TRUE = """
import ctypes, logging, resource, sys
ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX: an arena for each thread would be counted as memory
from pathlib import Path
from rows import EIGHT
from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.inference.loading import load_tokenizer
from qwen_ner.training.batches.collate import choose_collator
from qwen_ner.training.recipe import NerTrainingArguments
from qwen_ner.training.model import load_model
from qwen_ner.training.loop.trainer import NerTrainer

tiny, out = sys.argv[1:]
logging.basicConfig(format="%(message)s", level=logging.WARNING)
tokenizer, codec = load_tokenizer(tiny), Codec(CLUENER, "找出实体")
rows = build_dataset(EIGHT * 100, codec, tokenizer)
model = load_model(tiny)
collator = choose_collator(model, 0)

def trainer(size):
    args = NerTrainingArguments(
        output_dir=out, use_cpu=True, max_steps=1, per_device_train_batch_size=size, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, report_to="none", disable_tqdm=True, logging_strategy="no",
    )
    return NerTrainer(model=model, args=args, ner_config=NerConfig(CLUENER, "找出实体", 16, (2, 0)),
                      processing_class=tokenizer, data_collator=collator, train_dataset=rows)

trainer(1).train()  # what is loaded with the first step is loaded
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
# 800 rows have some 10,000 supervised tokens, with a logit for each token, of which there is more than one copy.
resource.setrlimit(resource.RLIMIT_AS, (held + 150_000_000,) * 2)
large = trainer(800)
large.train()
print("HELD", large.replay.rows_held, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for a limit on its own memory")
def test_a_process_whose_memory_is_really_limited_goes_on_in_halves(tiny, tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = warm_python.run([sys.executable, "-c", TRUE, tiny, tmp_path], env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    held = int(done.stdout.split("HELD ")[1])
    assert 1 <= held < 800
    assert (
        f"a batch of 800 rows ran out of memory. From now on batches are taken in parts of at most {held}"
        in done.stderr
    )
