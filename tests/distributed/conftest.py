"""One recipe, and what one process makes of it: what more processes are compared with."""

import pytest
from distributed.hosts import two_hosts, unavailable
from distributed.shards import EACH, STEPS

from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train


@pytest.fixture(scope="session")
def recipe(taught, tmp_path_factory):
    """Rows to train on and rows to evaluate that two ranks cannot share out evenly; an epoch ends behind step 4."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(
        f"dataset: {taught}\nsystem_prompt: 找出实体\nvalidation_rows: 9\nexamples: [王芳在深圳卖三星手机]\nseed: 7\n"
        "use_cpu: true\nlr_scheduler_type: constant\nadam_epsilon: 1e-3\nlogging_steps: 1\nreport_to: none\n"
        f"max_steps: {STEPS[-1]}\neval_strategy: steps\neval_steps: 3\nsave_strategy: steps\nsave_steps: 3\n"
        "save_total_limit: 4\neval_on_start: true\nmax_new_tokens: 48\nper_device_train_batch_size: 4\n"
        "per_device_eval_batch_size: 2\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def base(trained):
    """A model that ends its answers, each at another step; shards.py trains it further."""
    return trained["full"]


@pytest.fixture(scope="session")
def plain(recipe, base, make_once):
    def make(out):
        for name, options in EACH.items():
            train(load_recipe(recipe, ["--model_name_or_path", str(base), *options, "--output_dir", str(out / name)]))

    return make_once("plain", make)


@pytest.fixture(scope="session")
def hosts():
    if reason := unavailable():
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield hosts
