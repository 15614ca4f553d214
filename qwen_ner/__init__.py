"""Fine-tune a small Qwen to do named entity recognition by writing JSON.

>>> from qwen_ner import Extractor  # doctest: +SKIP
>>> Extractor.from_pretrained("outputs/quickstart").extract(["三星WCG2011北京赛区魔兽争霸3最终名次"])  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "CLUENER": "entities",
    "Codec": "codec",
    "Entity": "entities",
    "Example": "entities",
    "Extractor": "inference.extractor",
    "LabelSet": "entities",
    "NerError": "entities",
    "score": "evaluation.scoring",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a name from its module when it is first used: `import qwen_ner` loads neither torch nor transformers."""
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
