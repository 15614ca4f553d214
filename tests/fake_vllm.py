"""A stand-in for a vLLM server on loopback, which answers as vLLM 0.32 did.

    python tests/fake_vllm.py http://127.0.0.1:8000/v1 grammar    # records from a server with the logits processor
    python tests/fake_vllm.py http://127.0.0.1:8001/v1 plain      # from one without

record the answers in `RECORDED` again. The servers run an export of the toy that the fixture `trained` makes.
"""

import json
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RECORDED = Path(__file__).parent / "inference" / "backends" / "vllm_0_32.jsonl"


class FakeVllm:
    """Listens at `url`. `answer(path, request)` gives status and body; it may be replaced, to spoil an answer.

    `asked` are the requests so far, as (path, request, headers).
    """

    def __init__(self, answer):
        self.answer, self.asked = answer, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @classmethod
    def of(cls, kind):
        """One that knows what a server of this `kind` was asked; to anything else it answers with HTTP 418."""
        answers = {row["asked"]: (row["status"], row["answer"]) for row in rows() if row["kind"] == kind}
        unknown = [418, {"error": {"message": "no such request was recorded"}}]
        return cls(lambda path, request: answers.get(key(path, request), unknown))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def rows():
    return [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]


def key(path, request):
    return f"{path} {json.dumps(request, ensure_ascii=False, sort_keys=True)}"


def _handler(fake):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            length = int(self.headers.get("content-length", 0))
            request = json.loads(self.rfile.read(length)) if length else None
            fake.asked.append((self.path, request, dict(self.headers)))
            status, body = fake.answer(self.path, request)
            if status == 0:
                self.close_connection = True
                return
            sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    return Handler


def record(upstream, kind):
    """Ask the server at `upstream` what the tests ask, and keep its answers."""
    from inference.backends.test_http import ask_all

    kept = [row for row in rows() if row["kind"] != kind] if RECORDED.exists() else []

    def forward(path, request):
        data = json.dumps(request).encode() if request else None
        asked = urllib.request.Request(upstream.removesuffix("/v1") + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(asked) as answer:
                status, body = answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            status, body = refused.code, json.load(refused)
        kept.append({"kind": kind, "asked": key(path, request), "status": status, "answer": body})
        return status, body

    fake = FakeVllm(forward)
    ask_all(fake.url, kind)
    kept.sort(key=lambda row: (row["kind"], row["asked"]))
    RECORDED.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")


if __name__ == "__main__":
    record(*sys.argv[1:])
