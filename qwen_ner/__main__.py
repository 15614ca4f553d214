"""`python -m qwen_ner`, for launchers that run a module."""

from .cli import main

main()
