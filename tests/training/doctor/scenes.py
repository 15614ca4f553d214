"""Parts of the recipes that a doctor examines."""

import json
from pathlib import Path

LABELS = "{address: '', book: '', company: '', game: '', government: '', movie: '', name: '', organization: '', position: '', scene: ''}"


def numbered(rows, prefix):
    """Rows with ids of their own and texts that no other prefix has."""
    made = []
    for n, row in enumerate(rows):
        tail = f"，{prefix}{n}"
        made.append(type(row)(f"{prefix}{n}", row.text + tail, row.entities))
    return made


def edit(path: Path, **values):
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**tree, **values}), encoding="utf-8")
