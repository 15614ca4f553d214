"""The model card: metadata for search, the figures of metrics.json, and snippets that run."""

import contextlib
import io
import json
import re
import shutil
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from rows import EIGHT

from qwen_ner.contract import NerConfig
from qwen_ner.entities import LabelSet
from qwen_ner.evaluation.bootstrap import Interval
from qwen_ner.hub.card import CHINESE, SENTENCE, curve, model_card
from qwen_ner.hub.push import push
from qwen_ner.inference.extractor import Extractor


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained["full"], tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "library", "relation"), [("adapter", "peft", "adapter"), ("full", "transformers", "finetune")]
)
def test_the_metadata_holds_what_the_hub_searches_by(trained, kind, library, relation):
    card = ModelCard(model_card(trained[kind], "tester/ner", base_model="tester/base"))
    metrics = json.loads((trained[kind] / "metrics.json").read_text())
    assert card.data.language == "zh"
    assert card.data.pipeline_tag == "token-classification"
    assert (card.data.library_name, card.data.base_model_relation) == (library, relation)
    assert card.data.base_model == "tester/base"
    found = {result.metric_name: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        name: metrics["metrics"][name] for name in ("f1", "span_f1", "macro_f1")
    }
    for result in found.values():
        assert result.task_type == "token-classification"
        assert result.dataset_split == "dev"
        assert result.dataset_revision == metrics["contract"]["fingerprint"]
        assert result.dataset_args["rows"] == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "how", "limit"),
    [
        ("full", "as JSON", "the format names surfaces, not places"),
        ("inline", "by marking them", "entities that overlap"),
    ],
)
def test_the_card_says_what_the_target_can_say(trained, kind, how, limit):
    card = model_card(trained[kind], "tester/ner")
    assert how in card
    assert limit in card
    assert ("json" in ModelCard(card).data.tags) == (kind == "full")


@pytest.mark.slow
def test_each_label_has_its_figures_and_interval(trained):
    card = model_card(trained["full"], "tester/ner")
    metrics = json.loads((trained["full"] / "metrics.json").read_text())
    assert metrics["labels"]
    for label in metrics["labels"]:
        counts, between = metrics["surface"][label], Interval(*metrics["intervals"][f"f1_{label}"])
        support = counts["tp"] + counts["fn"]
        rates = " | ".join(f"{100 * counts[rate]:.2f}" for rate in ("precision", "recall", "f1"))
        assert f"| {label} | {rates} | {between} | {support} |" in card
    assert "fingerprint " + metrics["contract"]["fingerprint"] in card
    assert "free decoding" in card
    assert "seed 7" in card
    if metrics["problems"]["not_in_text"]:
        assert f"{metrics['problems']['not_in_text']} not in text" in card


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_the_card_s_snippets_run_from_the_hub(trained, hub, kind):
    push(trained[kind], "tester/ner")
    card = hub.files("tester/ner")["README.md"].decode()
    assert "](curve.png)" in card
    ours, *stock = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(ours, {})
    entities = Extractor.from_pretrained("tester/ner").extract([CHINESE])[0]
    assert out.getvalue() == "".join(f"{e.label} {e.text} {e.start} {e.end} {e.score}\n" for e in entities)
    assert len(stock) == (kind == "full")
    for snippet in stock:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(snippet, {})
        assert out.getvalue().startswith("{")


@pytest.mark.slow
def test_the_snippet_has_no_turn_that_the_chat_template_refuses(folder):
    template = folder / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    assert '"role": "system"' in model_card(folder, "tester/ner")
    template.write_text(refusal + template.read_text(encoding="utf-8"), encoding="utf-8")
    card = model_card(folder, "tester/ner")
    assert '"role": "system"' not in card
    assert '{"role": "user", "content": "找出实体\\n\\n' + CHINESE in card


@pytest.mark.slow
def test_an_unscored_model_has_no_scores(folder):
    (folder / "metrics.json").unlink()
    card = model_card(folder, "tester/ner")
    assert "**It was not scored**" in card
    assert ModelCard(card).data.eval_results is None
    assert "Weakest" not in card


@pytest.mark.slow
def test_a_base_without_a_repository_is_not_in_the_metadata(folder):
    data = ModelCard(model_card(folder, "tester/ner")).data
    assert data.base_model is None
    assert "base_model_relation" not in data.to_dict()


@pytest.mark.slow
def test_another_language_is_not_called_chinese(folder):
    line = json.dumps({"text": "Samsung opened\u2028a shop in Beijing"}, ensure_ascii=False)
    failed = json.dumps({"id": "2", "error": "too long"})  # as `predict` writes it, whose output this may be
    (folder / "predictions.jsonl").write_text(f"{failed}\n{line}\n", encoding="utf-8")
    card = model_card(folder, "tester/ner")
    assert ModelCard(card).data.language is None
    assert SENTENCE in card
    assert CHINESE not in card


@pytest.mark.slow
def test_a_label_s_name_cannot_break_a_table(folder):
    path, config = folder / "metrics.json", NerConfig.load(folder)
    path.write_text(re.sub(r"\bscene\b", "scene|景点", path.read_text(encoding="utf-8")), encoding="utf-8")
    labels = [replace(label, name=label.name.replace("scene", "scene|景点")) for label in config.labels]
    replace(config, labels=LabelSet(tuple(labels))).save(folder)
    card = model_card(folder, "tester/ner")
    tables = [line for line in card.splitlines() if line.startswith("| scene")]
    assert len(tables) == 2
    assert all("scene\\|景点" in line for line in tables)


@pytest.mark.slow
def test_nothing_chose_the_checkpoint_where_the_last_weights_are_kept(folder):
    """As after eval_strategy: no, save_strategy: no or load_best_model_at_end: false."""
    path = folder / "metrics.json"
    assert "which chose the checkpoint" in model_card(folder, "tester/ner")
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics["training"]["validation"] |= {"best": 0.5, "step": None}
    metrics["contract"]["sampling"] = "1 answer a text, temperature 0.7"
    path.write_text(json.dumps(metrics), encoding="utf-8")
    card = model_card(folder, "tester/ner")
    assert "chose" not in card
    assert "was the best on" not in card
    assert "free: 1 answer a text, temperature 0.7, without the grammar" in card
    assert "greedy" not in card


def test_a_long_curve_is_thinned_but_keeps_its_ends():
    log = [{"step": 0, "eval_f1": 0.0}]
    for step in range(1, 100):
        log += [{"step": step, "loss": 1 / step}, {"step": step, "eval_f1": step / 100, "eval_loss": 2 / step}]
    points = curve(log)
    assert len(points) == 12
    assert (points[0]["step"], points[-1]["step"]) == (0, 99)
    assert points[0]["loss"] is None
    assert points[-1] == {
        "step": 99, "loss": 1 / 99, "eval_loss": 2 / 99, "eval_f1": 0.99, "eval_span_f1": None, "eval_macro_f1": None,
    }  # fmt: skip
    assert [point["step"] for point in curve(log[:9])] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_the_card_holds_no_row_of_the_data(trained):
    card = model_card(trained["adapter"], "tester/ner")
    assert not any(gold.text in card for gold in EIGHT)
    assert "王芳在深圳卖三星手机" not in card, "examples of local data may be rows of it"


def retell(folder, dataset, **told):
    """The folder as a training on `dataset` would have left it; `told` is what metrics.json says of it."""
    recipe, metrics = folder / "recipe.yaml", json.loads((folder / "metrics.json").read_text())
    recipe.write_text(re.sub("^dataset: .*$", f"dataset: {dataset}", recipe.read_text(), flags=re.MULTILINE))
    metrics["contract"]["data"] = metrics["training"]["dataset"] = str(dataset)
    metrics["training"] = {key: value for key, value in metrics["training"].items() if key != "local_data"} | told
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["data/medicine", "./data/medicine", "/home/me/data/medicine", "~/data/medicine", "../medicine"])  # fmt: skip
def test_a_local_data_set_is_called_local_and_not_named_as_one_of_the_hub(folder, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no data/medicine
    metrics = retell(folder, dataset, local_data=True)
    card = model_card(folder, "tester/ner")
    data = ModelCard(card).data
    assert data.datasets is None
    assert {result.dataset_type for result in data.eval_results} == {"local"}
    training = metrics["training"]
    said = f"{training['train_rows']} rows, fingerprint {training['data_fingerprint']}"
    assert f"on a local data set (medicine: {said})" in card
    assert "qwen-ner evaluate tester/ner --data DATA\n" in card
    assert str(dataset) not in card
    assert "/home/me" not in card


@pytest.mark.slow
def test_a_path_that_looks_like_a_name_of_the_hub_is_local_if_it_is_there(folder, tmp_path, monkeypatch):
    """An older training did not write down that its data were local."""
    retell(folder, "data/medicine")
    monkeypatch.chdir(tmp_path)
    assert ModelCard(model_card(folder, "tester/ner")).data.datasets == ["data/medicine"]
    (tmp_path / "data" / "medicine").mkdir(parents=True)
    assert ModelCard(model_card(folder, "tester/ner")).data.datasets is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "datasets", "named"),
    [
        ("owner/name:zh", ["owner/name"], "owner/name:zh"),
        ("cluener", ["cluener"], "cluener"),
        ("sample", None, "sample"),
    ],
)
def test_a_public_data_set_is_named_and_its_line_evaluates_it(folder, dataset, datasets, named):
    retell(folder, dataset, local_data=False)
    card = model_card(folder, "tester/ner")
    assert ModelCard(card).data.datasets == datasets
    assert f"qwen-ner evaluate tester/ner --data {named} --split dev\n" in card
    assert f"trained with qwen_ner on {named}." in card


@pytest.mark.slow
def test_rows_held_out_of_train_are_no_split_to_evaluate(folder):
    metrics = retell(folder, "owner/name", local_data=False)
    metrics["contract"]["split"] = "validation"
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "qwen-ner evaluate tester/ner --data DATA\n" in model_card(folder, "tester/ner")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scored", "chose", "kind"),
    [("dev", "dev", True), ("test", "dev", False), ("validation", "validation", True), ("dev", "validation", False)],
)
def test_scores_of_the_rows_that_chose_the_checkpoint_are_called_optimistic(folder, scored, chose, kind):
    metrics = retell(folder, "owner/name", local_data=False)
    metrics["contract"]["split"], metrics["training"]["validation"]["split"] = scored, chose
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert ("slightly optimistic" in model_card(folder, "tester/ner")) is kind


@pytest.mark.slow
def test_a_checkpoint_knows_what_its_training_said_of_the_data(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    retell(folder, "data/medicine", local_data=True)
    checkpoint = folder / "checkpoint-40"
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.mkdir()
    for path in [*folder.iterdir()]:
        if path.is_file() and path.name not in ("metrics.json", "recipe.yaml"):
            shutil.copy(path, checkpoint)
    card = model_card(checkpoint, "tester/ner")
    assert ModelCard(card).data.datasets is None
    assert "on a local data set (medicine)" in card
