"""YAML as recipes and sweep files have it: no key twice.

In: text. Out: what PyYAML makes of it, or one of `NOT_YAML`. Does not know what the keys mean.
"""

from __future__ import annotations

from typing import Any

import yaml

NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises: its own errors, and Python's for numbers, dates and nesting beyond its limits."""


class UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a repeated key, where the plain loader would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
        return super().construct_mapping(node, deep)
