"""Fine-tune a small Qwen to do named entity recognition by writing JSON.

>>> from qwen_ner import Extractor  # doctest: +SKIP
>>> Extractor.from_pretrained("outputs/quickstart").extract(["三星WCG2011北京赛区魔兽争霸3最终名次"])  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "CLUENER": "entities",
    "Codec": "codec",
    "Entity": "entities",
    "Example": "entities",
    "Extractor": "inference.extractor",
    "LabelSet": "entities",
    "NerError": "entities",
    "score": "evaluation.scoring",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Hand on a name from its home at first use, so that `import qwen_ner` loads neither torch nor transformers."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
