"""`python -m qwen_ner`, for launchers that start a module."""

from .cli import main

main()
