"""What a push publishes of a trained folder, and how it fails."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import TOKEN
from huggingface_hub import constants
from rows import EIGHT

from qwen_ner import cli
from qwen_ner.contract import NerConfig
from qwen_ner.entities import NerError
from qwen_ner.hub.neutral import neutral_recipe, refuse_secrets
from qwen_ner.hub.push import push

ALWAYS = {
    "README.md", "curve.png", "ner_config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "recipe.yaml", "metrics.json",
}  # fmt: skip

WEIGHTS = {
    "adapter": {"adapter_config.json", "adapter_model.safetensors"},
    "full": {"config.json", "model.safetensors"},
}


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copied(folder, tmp_path, name="copy"):
    return shutil.copytree(folder, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_a_push_publishes_the_allow_list_and_leaves_the_folder_unchanged(trained, hub, kind):
    before = contents(trained[kind])
    address = push(trained[kind], "tester/ner")
    assert address.startswith(f"{hub.url}/tester/ner/commit/")
    assert set(hub.files("tester/ner")) == ALWAYS | WEIGHTS[kind]
    assert contents(trained[kind]) == before
    assert not hub.repos["tester/ner"]["private"]
    for path, data in hub.files("tester/ner").items():
        if path.endswith(".safetensors"):
            assert data == (trained[kind] / path).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_no_pushed_file_holds_a_path_a_token_or_a_row_of_the_data(trained, taught, hub, tmp_path, kind):
    folder = copied(trained[kind], tmp_path)
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write(
            f"hub_token: {TOKEN}\npush_to_hub: true\nlogging_dir: {tmp_path}/logs\ndeepspeed: {tmp_path}/ds.json\n"
        )
    tokenizer = folder / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"name_or_path": str(tmp_path)}))
    push(folder, "tester/ner")
    secrets = [TOKEN, str(tmp_path), str(taught.parent), str(folder.parent), *(gold.text for gold in EIGHT)]
    for path, data in hub.pushed():
        for secret in secrets:
            assert secret.encode() not in data, f"{path} holds {secret}"
            assert json.dumps(secret)[1:-1].encode() not in data, f"{path} holds {secret}"
    assert "deepspeed: ds.json" in hub.files("tester/ner")["recipe.yaml"].decode()


def test_a_published_recipe_keeps_its_settings_and_prompts():
    words = {"system_prompt": "/找出实体", "labels": {"unit": "/分钟"}, "examples": ["~20元"]}
    given = {
        "model_name_or_path": "C:\\models\\qwen", "dataset": "cluener", "lora_r": 8, "output_dir": "out", **words,
        "negatives_from": "data/clinic/texts.txt",
    }  # fmt: skip
    kept = {
        "model_name_or_path": "qwen", "dataset": "cluener", "lora_r": 8, **words, "negatives_from": "texts.txt",
    }  # fmt: skip
    assert neutral_recipe(given, None) == kept
    del kept["examples"]  # of local data they are rows
    assert neutral_recipe(given | {"dataset": "../data/medicine"}, None) == kept | {"dataset": "medicine"}
    assert neutral_recipe({"model_name_or_path": "base"}, "user/base") == {"model_name_or_path": "user/base"}


@pytest.mark.slow
def test_a_token_in_a_prompt_is_not_pushed(trained, hub, tmp_path):
    folder = copied(trained["full"], tmp_path)
    replace(NerConfig.load(folder), system_prompt=f"找出实体 {TOKEN}").save(folder)
    with pytest.raises(NerError, match="a token") as caught:
        push(folder, "tester/ner")
    assert caught.value.place == "README.md"
    assert TOKEN not in str(caught.value)
    assert hub.titles("tester/ner") == []


@pytest.mark.parametrize(
    ("text", "local"), [("use user/ner", False), ("made in /ner", True), ('{"from": "/ner/model"}', True)]
)
def test_the_name_of_a_repository_is_no_local_path(tmp_path, text, local):
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(NerError, match="a local path") if local else nullcontext():
        refuse_secrets(tmp_path, None, Path("/ner"))


@pytest.mark.slow
def test_a_push_replaces_our_files_and_leaves_the_others(trained, hub):
    push(trained["adapter"], "tester/ner")
    hub.files("tester/ner")["LICENSE"] = b"theirs"
    push(trained["adapter"], "tester/ner", merge=True)
    assert set(hub.files("tester/ner")) == ALWAYS | WEIGHTS["full"] | {"LICENSE"}
    first = hub.files("tester/ner")
    push(trained["adapter"], "tester/ner", merge=True)
    assert hub.files("tester/ner") == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "status"),
    [("PUT /lfs", 403), ("/tester/ner/commit/", 403), ("/tester/ner/commit/", 0)],
    ids=["at the weights", "at the commit", "cut off"],
)
def test_an_interrupted_push_changes_nothing_and_can_be_repeated(trained, hub, at, status):
    push(trained["full"], "tester/ner")
    before, local = hub.files("tester/ner"), contents(trained["adapter"])
    hub.refuse += [(at, status)]
    with pytest.raises(NerError) as caught:
        push(trained["adapter"], "tester/ner")
    assert (caught.value.place, caught.value.value) == ("tester/ner", status or None)
    assert hub.files("tester/ner") == before
    assert contents(trained["adapter"]) == local
    push(trained["adapter"], "tester/ner")
    assert set(hub.files("tester/ner")) == ALWAYS | WEIGHTS["adapter"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "repo_id", "options", "value", "remedy"),
    [
        (lambda hub, patch: patch.delenv("HF_TOKEN"), "tester/ner", {}, 401, "`hf auth login`, or set HF_TOKEN"),
        (lambda hub, patch: patch.setenv("HF_TOKEN", "hf_x"), "tester/ner", {}, 401, "`hf auth login`"),
        (lambda hub, patch: None, "nobody/ner", {}, 403, "under your own account"),
        (lambda hub, patch: hub.create("nobody/ner"), "nobody/ner", {}, 403, "under your own account"),
        (lambda hub, patch: hub.create("tester/ner"), "tester/ner", {"private": True}, None, "make it private"),
        (lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True), "tester/ner", {}, None, "HF_HUB_OFFLINE"),
        (lambda hub, patch: hub.close(), "tester/ner", {}, None, "check the network"),
        (lambda hub, patch: None, "tester/n r", {}, None, "user/name"),
        (lambda hub, patch: hub.refuse.append(("/commit/", 409)), "tester/ner", {}, 409, "run the same command again"),
        (lambda hub, patch: None, "tester/ner", {"merge": True}, None, "without --merge"),
        (lambda hub, patch: hub.refuse.append(("POST /api/repos/create", 400)), "tester/ner", {}, None, "the token"),
    ],
    ids=["no token", "bad token", "another's name", "taken", "public", "offline", "unreachable", "name", "conflict",
         "nothing to merge", "refused"],
)  # fmt: skip
def test_each_failure_has_its_remedy_and_changes_nothing(
    trained, hub, monkeypatch, spoil, repo_id, options, value, remedy
):
    before = contents(trained["full"])
    spoil(hub, monkeypatch)
    with pytest.raises(NerError) as caught:
        push(trained["full"], repo_id, **options)
    place = trained["full"] if "merge" in options else repo_id
    assert (caught.value.place, caught.value.value) == (place, value)
    assert remedy in caught.value.remedy
    assert "hf download" not in caught.value.remedy, "it writes"
    assert TOKEN not in str(caught.value)
    assert contents(trained["full"]) == before
    assert not any(repo["commits"][1:] for repo in hub.repos.values())


@pytest.mark.slow
def test_an_adapter_of_a_local_base_can_only_be_pushed_merged(trained, tiny, hub, tmp_path):
    folder = copied(trained["adapter"], tmp_path)
    config = folder / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tiny), "revision": None})
    )
    with pytest.raises(NerError) as caught:
        push(folder, "tester/ner")
    assert (caught.value.place, caught.value.value) == (folder, str(tiny))
    assert "--merge" in caught.value.remedy
    assert "tester/ner" not in hub.repos
    push(folder, "tester/ner", merge=True)
    card = hub.files("tester/ner")["README.md"].decode()
    assert "base_model" not in card
    assert not any(str(tiny).encode() in data for _, data in hub.pushed())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "ner_config"),
        (lambda folder: (folder.mkdir(), shutil.copy(folder.parent / "ner_config.json", folder)), "safetensors"),
    ],
    ids=["nothing", "no model of ours", "no weights"],
)
def test_a_folder_without_a_trained_model_is_refused(hub, tmp_path, codec, make, said):
    from qwen_ner.contract import NerConfig

    NerConfig(codec.labels, "找出实体", 12, (2, 0)).save(tmp_path)
    make(tmp_path / "model")
    with pytest.raises(NerError, match=said) as caught:
        push(tmp_path / "model", "tester/ner")
    assert caught.value.place == tmp_path / "model"
    assert "tester/ner" not in hub.repos


def evaluated(model, data, tmp_path, *options):
    cli.main(["evaluate", model, "--data", str(data), "--decoding", "free", "--json", str(tmp_path / "json"), *options])
    return json.loads((tmp_path / "json").read_text())["free"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "merge"), [("adapter", []), ("adapter", ["--merge"]), ("full", [])])
def test_a_pushed_model_evaluates_to_the_same_digits_also_at_a_revision(
    trained, taught, hub, tmp_path, capsys, kind, merge
):
    cli.main(["push", str(trained[kind]), "tester/ner", "--private", *merge])
    commit = capsys.readouterr().out.strip().rsplit("/", 1)[1]
    assert hub.repos["tester/ner"]["private"]
    said = json.loads(hub.files("tester/ner")["metrics.json"])
    assert said["metrics"]["f1"] > 0
    again = evaluated("tester/ner", taught, tmp_path)
    for key in ("metrics", "surface", "span", "problems", "intervals", "confusion"):
        assert again[key] == said[key]
    assert again["contract"]["model"] == said["contract"]["model"] == "tester/ner"
    other = trained["full" if kind == "adapter" else "adapter"]
    push(other, "tester/ner")
    older = evaluated("tester/ner", taught, tmp_path, "--revision", commit)
    assert older["metrics"] == said["metrics"]
    assert older["contract"]["model"] == f"tester/ner@{commit}"
    newer = evaluated("tester/ner", taught, tmp_path)
    assert newer["metrics"] == json.loads((other / "metrics.json").read_text())["metrics"]
    capsys.readouterr()
    cli.main(["predict", "tester/ner", "--revision", commit, "--text", EIGHT[0].text])
    assert json.loads(capsys.readouterr().out)["text"] == EIGHT[0].text


@pytest.mark.slow
def test_an_adapter_is_pinned_to_the_commit_of_its_base(trained, taught, hub, tmp_path):
    push(trained["adapter"], "tester/ner")
    adapter = json.loads(hub.files("tester/ner")["adapter_config.json"])
    base = hub.repos["tester/base"]["commits"]
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("tester/base", base[0]["sha"])
    base.append({"sha": "f" * 40, "title": "another base", "files": {**base[0]["files"], "model.safetensors": b"torn"}})
    said = json.loads(hub.files("tester/ner")["metrics.json"])
    assert evaluated("tester/ner", taught, tmp_path)["metrics"] == said["metrics"]
