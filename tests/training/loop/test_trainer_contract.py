"""What `NerTrainer` overrides of the installed Trainer, and calls of what is private in it: a new release fails here by
name."""

import inspect

import pytest
from transformers import Trainer, TrainerCallback

from qwen_ner.training.loop.trainer import NerTrainer

OVERRIDDEN = {
    "__init__": "self, model, args, data_collator, train_dataset, eval_dataset, processing_class, model_init, "
    "compute_loss_func, compute_metrics, callbacks, optimizers, optimizer_cls_and_kwargs, preprocess_logits_for_metrics",
    "train": "self, resume_from_checkpoint, trial, ignore_keys_for_eval",
    "get_batch_samples": "self, epoch_iterator, num_batches, device",
    "training_step": "self, model, inputs, num_items_in_batch",
    "prediction_step": "self, model, inputs, prediction_loss_only, ignore_keys",
    "save_model": "self, output_dir, _internal_call",
    "_save_checkpoint": "self, model, trial",
    "push_to_hub": "self, commit_message, blocking, token, revision, kwargs",
}

CALLED = {
    "_evaluate": "self, trial, ignore_keys_for_eval, skip_scheduler",
    "_determine_best_metric": "self, metrics, trial",
    "_finalize_training": "self, trial, num_train_samples, start_time",
    "_prepare_inputs": "self, inputs",
}

LATER = {"push_to_hub": ("private",)}
"""Parameters that only newer releases have, and that are not given."""

EVENTS = (
    "on_train_begin", "on_epoch_begin", "on_pre_optimizer_step", "on_step_end", "on_epoch_end", "on_evaluate",
    "on_predict", "on_prediction_step", "on_save", "on_log", "on_train_end",
)  # fmt: skip


def test_it_overrides_at_most_eight_methods_two_of_them_private():
    own = [kind for kind in NerTrainer.__mro__ if issubclass(kind, Trainer) and kind is not Trainer]
    found = {name for kind in own for name, value in vars(kind).items() if callable(value) and hasattr(Trainer, name)}
    assert found == OVERRIDDEN.keys()
    assert len(found) <= 8
    assert len([name for name in found if name.startswith("_") and name != "__init__"]) <= 2


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_the_installed_trainer_has_the_signature_that_is_relied_on(name):
    found = [each for each in inspect.signature(getattr(Trainer, name)).parameters if each not in LATER.get(name, ())]
    assert ", ".join(found) == (OVERRIDDEN | CALLED)[name]


@pytest.mark.parametrize("event", EVENTS)
def test_the_installed_trainer_has_the_events_that_are_relied_on(event):
    assert list(inspect.signature(getattr(TrainerCallback, event)).parameters)[:4] == [
        "self",
        "args",
        "state",
        "control",
    ]


def test_the_epoch_calls_what_is_relied_on_in_the_order_that_is_relied_on():
    """A gradient is looked at behind clipping, before the optimizer; a checkpoint is written before its event."""
    epoch, save = inspect.getsource(Trainer._run_epoch), inspect.getsource(Trainer._maybe_log_save_evaluate)
    for source, calls in (
        (epoch, ["get_batch_samples(", "training_step(", "on_pre_optimizer_step(", "optimizer.step(", "on_step_end("]),
        (save, ["self._evaluate(", "self._determine_best_metric(", "self._save_checkpoint(", "on_save("]),
    ):
        places = [source.index(call) for call in calls]
        assert places == sorted(places)
