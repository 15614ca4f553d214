"""What a .wandb file holds: LevelDB's log framing over protobuf Records."""

import json
import struct
from pathlib import Path

BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def raw(path):
    """The bytes of each record."""
    data = Path(path).read_bytes()
    assert data[:4] == b":W&B", data[:8]
    offset, part = 7, b""
    while offset + 7 <= len(data):
        left = BLOCK - offset % BLOCK
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        if kind == 0 and length == 0:
            offset += left
            continue
        piece = data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        part = piece if kind in (FULL, FIRST) else part + piece
        if kind in (FULL, LAST):
            yield part


def records(path):
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(data) for data in raw(path)]


def load(path):
    """Its history row by row, config, summary, run (project, name, id, sweep, group, tags, commit) and exit code."""
    out = {"history": [], "config": {}, "summary": {}, "run": None, "exit": None, "artifacts": {}}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            out["history"].append(_values(record.history.item))
        elif kind == "run":
            run = record.run
            names = (run.project, run.display_name, run.run_id, run.sweep_id, run.run_group, list(run.tags))
            out["run"] = (*names, run.git.commit)
            out["config"].update(_values(run.config.update))
        elif kind == "config":
            out["config"].update(_values(record.config.update))
        elif kind == "summary":
            out["summary"].update(_values(record.summary.update))
        elif kind == "exit":
            out["exit"] = record.exit.exit_code
        elif kind == "artifact":
            files = {entry.path for entry in record.artifact.manifest.contents}
            out["artifacts"].setdefault(record.artifact.type, []).append(files)
    return out


def _values(items):
    """A nested key is a path into a mapping, as of a table or histogram."""
    values = {}
    for item in items:
        *path, name = item.nested_key or [item.key]
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[name] = json.loads(item.value_json)
    return values
