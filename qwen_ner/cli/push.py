"""Push a trained model and its card to the Hub.

Uploads weights as safetensors, tokenizer, ner_config.json, model card, recipe and scores in one commit, but no pickle,
token, local path or row of the data. Log in first with `hf auth login`, or set HF_TOKEN.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", help="an output_dir, or a checkpoint in it")
    parser.add_argument("repo_id", metavar="REPO_ID", help="user/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create it private; refuse a repository that is public")
    parser.add_argument("--merge", action="store_true", help="merge an adapter into its base model before the upload")


def run(options: Namespace, _: list[str]) -> None:
    from ..hub.push import push

    print(f"pushed: {push(options.folder, options.repo_id, private=options.private, merge=options.merge)}")
