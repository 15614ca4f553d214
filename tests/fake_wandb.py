"""A W&B of our own on the loopback: as much of its GraphQL as `wandb sweep` and `wandb agent` ask for.

Knows grids of `value` and `values` only; nothing is stored but in memory. To use it: WANDB_BASE_URL, a WANDB_API_KEY of 40
characters, WANDB_ENTITY and WANDB_PROJECT in the environment, and WANDB_MODE=offline for the runs themselves.
"""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


class FakeWandb(ThreadingHTTPServer):
    """Serves until `shutdown()`. `runs` are the (run id, {parameter: value}) handed out, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.configs: dict[str, str] = {}
        self.agents: dict[str, str] = {}
        self.waiting: dict[str, list[dict[str, Any]]] = {}
        self.runs: list[tuple[str, dict[str, Any]]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """What GraphQL answers to `query` under "data"."""
        if "upsertSweep" in query:
            sweep = uuid.uuid4().hex[:8]
            self.configs[sweep] = given["config"]
            parameters = yaml.safe_load(given["config"])["parameters"]
            tried = [spec["values"] if "values" in spec else [spec["value"]] for spec in parameters.values()]
            self.waiting[sweep] = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*tried)]
            entity = {"id": "e", "name": "tester"}
            project = {"id": "p", "name": given.get("projectName") or "qwen-ner", "entity": entity}
            return {"upsertSweep": {"sweep": {"name": sweep, "project": project}, "configValidationWarnings": []}}
        if "createAgent" in query:
            agent = uuid.uuid4().hex[:6]
            self.agents[agent] = given["sweep"]
            return {"createAgent": {"agent": {"id": agent}}}
        if "agentHeartbeat" in query:
            commands = [] if json.loads(given["runState"]) else [self.next_command(self.agents[given["id"]])]
            return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}
        if "sweep(sweepName" in query:
            return {"project": {"sweep": self.sweep(given["sweep"])}}
        if "__type" in query or "__schema" in query:
            return {f"{kind}Type": {"fields": []} for kind in ("Query", "Mutation", "ServerInfo")}
        if "viewer" in query.lower():
            teams = {"edges": [{"node": {"name": "tester"}}]}
            names = dict.fromkeys(("username", "name", "entity"), "tester")
            viewer = {
                "id": "u",
                "email": "t@t",
                "admin": False,
                "flags": "{}",
                "teams": teams,
                "apiKeys": {"edges": []},
            }
            info = {"cliVersionInfo": {}, "latestLocalVersionInfo": {}}
            return {"viewer": viewer | names, "serverInfo": info}
        return {}

    def next_command(self, sweep: str) -> dict[str, Any]:
        if not self.waiting[sweep]:
            return {"type": "exit"}
        values, run = self.waiting[sweep].pop(0), uuid.uuid4().hex[:8]
        self.runs.append((run, values))
        program = yaml.safe_load(self.configs[sweep]).get("program")
        arguments = {key: {"value": value} for key, value in values.items()}
        return {"type": "run", "run_id": run, "run_uid": run, "program": program, "args": arguments, "logs": []}

    def sweep(self, name: str) -> dict[str, Any]:
        nothing = ("description", "heartbeatAt", "updatedAt", "bestLoss", "controller", "scheduler")
        return dict.fromkeys(nothing) | {
            "id": "s", "name": name, "method": "grid", "state": "RUNNING", "config": self.configs[name],
            "createdAt": "2026-01-01T00:00:00", "earlyStopJobRunning": False, "runs": {"edges": []},
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeWandb

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.path.startswith("/graphql"):
            return self.send({})
        asked = json.loads(body)
        answer = self.server.answer(asked["query"], asked.get("variables") or {})
        return self.send({"data": answer} if answer else {"data": {}, "errors": [{"message": "not faked"}]})
