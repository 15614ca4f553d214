"""A stand-in of the Hugging Face Hub on loopback: tokens, repositories, commits, downloads. Everything in memory.

It answers what `huggingface_hub` asks when a model is pushed or loaded. It knows who may do what, but nothing of
branches, quotas or pull requests.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_TheTokenOfTheTesterIsThis"


class FakeHub:
    """`repos`: {id: {"private", "commits": [{"sha", "title", "files": {path: bytes}}]}}, `url`: where it listens.

    `refuse` is a list of (part of "METHOD /path", status): each spoils one request that it fits; status 0 cuts the
    connection.
    """

    def __init__(self, users=None):
        self.users = users or {TOKEN: "tester", "hf_TheTokenOfSomebodyElse000": "somebody"}
        self.repos, self.lfs, self.refuse, self.log, self.lock = {}, {}, [], [], threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def create(self, repo_id, private=False, files=None):
        sha = hashlib.sha1(repo_id.encode()).hexdigest()
        first = {"sha": sha, "title": "initial commit", "files": dict(files or {})}
        self.repos[repo_id] = {"private": private, "commits": [first]}

    def files(self, repo_id):
        """What the repository holds now."""
        return self.repos[repo_id]["commits"][-1]["files"]

    def titles(self, repo_id):
        return [commit["title"] for commit in self.repos[repo_id]["commits"][1:]]

    def pushed(self):
        """(path, bytes) of all that was ever uploaded."""
        for repo in self.repos.values():
            for commit in repo["commits"]:
                yield from commit["files"].items()
        yield from self.lfs.items()

    def commit(self, repo_id, revision):
        commits = self.repos[repo_id]["commits"]
        return commits[-1] if revision == "main" else next((c for c in commits if c["sha"] == revision), None)


@contextmanager
def reaching(hub, cache):
    """Point the libraries of this process at `hub`, logged in as its user tester."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr("transformers.utils.hub._hf_api", None)  # made once, for the endpoint of that time
        patch.setenv("HF_TOKEN", TOKEN)
        yield


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def go(self):
            path, body = unquote(urlsplit(self.path).path), self.body()
            request = f"{self.command} {path}"
            with hub.lock:
                hub.log.append(request)
                spoiled = next((fault for fault in hub.refuse if fault[0] in request), None)
                if spoiled:
                    hub.refuse.remove(spoiled)
            if spoiled:
                if spoiled[1]:
                    return self.answer(spoiled[1], {"error": "refused"})
                self.close_connection = True
                return self.connection.shutdown(2)
            user = hub.users.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
            for pattern, method in ROUTES:
                if found := re.fullmatch(pattern, path):
                    return method(self, user, body, *found.groups())
            return self.answer(404, {"error": f"not faked: {request}"})

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = go

        def body(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            out = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out

        def answer(self, code, value=None, headers=(), raw=None):
            data = raw if raw is not None else json.dumps(value if value is not None else {}).encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **dict(headers)}
            self.send_response(code)
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def fault(self, code, name):
            self.answer(code, {"error": name}, {"X-Error-Code": name, "X-Error-Message": name})

        def may(self, user, repo_id, write=False):
            """Whether `user` may; else it is answered as the Hub does."""
            repo = hub.repos.get(repo_id)
            owner = user is not None and repo_id.split("/")[0] == user
            if repo is None or (repo["private"] and not owner):
                self.fault(401 if user is None else 404, "RepoNotFound")
            elif write and not owner:
                self.answer(401 if user is None else 403, {"error": "no write right"})
            else:
                return True
            return False

        def whoami(self, user, body):
            if user is None:
                return self.answer(401, {"error": "Invalid username or password."})
            return self.answer(
                200, {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}}
            )

        def create(self, user, body):
            if user is None:
                return self.answer(401, {"error": "Invalid username or password."})
            asked = json.loads(body)
            repo_id = f"{asked.get('organization') or user}/{asked['name']}"
            if not repo_id.startswith(f"{user}/"):
                return self.answer(403, {"error": f"You don't have the rights to create a model under {repo_id}"})
            url = {"url": f"{hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
            with hub.lock:
                if repo_id in hub.repos:
                    return self.answer(409, {"error": "You already created this model repo", **url})
                hub.create(
                    repo_id, private=asked.get("private") or asked.get("visibility") == "private"
                )  # as of 1.5, 2.4
            return self.answer(200, url)

        def validate(self, user, body):
            return self.answer(200, {"errors": [], "warnings": []})

        def preupload(self, user, body, repo_id, revision):
            if self.may(user, repo_id, write=True):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".bin", ".pt")) else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for file in json.loads(body)["files"]
                ]
                self.answer(200, {"files": files})

        def batch(self, user, body, repo_id):
            if self.may(user, repo_id, write=True):
                objects = []
                for item in json.loads(body)["objects"]:
                    known = {"oid": item["oid"], "size": item["size"]}
                    upload = {"actions": {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}}}
                    objects.append(known if item["oid"] in hub.lfs else known | upload)
                kind = {"Content-Type": "application/vnd.git-lfs+json"}
                self.answer(200, {"transfer": "basic", "objects": objects}, kind)

        def store(self, user, body, oid):
            if hashlib.sha256(body).hexdigest() != oid:
                return self.answer(422, {"error": "bad sha256"})
            hub.lfs[oid] = body
            return self.answer(200)

        def commit(self, user, body, repo_id, revision):
            if not self.may(user, repo_id, write=True):
                return
            title = ""
            with hub.lock:
                commits = hub.repos[repo_id]["commits"]
                files = dict(commits[-1]["files"])
                for line in map(json.loads, filter(bytes.strip, body.splitlines())):
                    value = line["value"]
                    if line["key"] == "header":
                        title = value["summary"]
                    elif line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files[value["path"]] = hub.lfs[value["oid"]]
                    elif line["key"] == "deletedFile":
                        files.pop(value["path"], None)
                sha = hashlib.sha1(f"{repo_id}{len(commits)}{title}".encode()).hexdigest()
                commits.append({"sha": sha, "title": title, "files": files})
            url = f"{hub.url}/{repo_id}/commit/{sha}"
            self.answer(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

        def info(self, user, body, repo_id, revision=None):
            if self.may(user, repo_id) and (commit := self.at(repo_id, revision)):
                siblings = [{"rfilename": path, "size": len(data)} for path, data in commit["files"].items()]
                about = {
                    "_id": "0",
                    "id": repo_id,
                    "modelId": repo_id,
                    "sha": commit["sha"],
                    "tags": [],
                    "downloads": 0,
                }
                self.answer(200, {**about, "likes": 0, "private": hub.repos[repo_id]["private"], "siblings": siblings})

        def tree(self, user, body, repo_id, revision, folder=None):
            if self.may(user, repo_id) and (commit := self.at(repo_id, revision)):
                files = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in sorted(commit["files"].items())
                    if not folder or path.startswith(f"{folder}/")
                ]
                if folder and not files:
                    self.fault(404, "EntryNotFound")
                else:
                    self.answer(200, files)

        def resolve(self, user, body, repo_id, revision, path):
            if self.may(user, repo_id) and (commit := self.at(repo_id, revision)):
                about = {"X-Repo-Commit": commit["sha"]}
                if path not in commit["files"]:
                    name = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
                    return self.answer(404, {"error": "Entry not found"}, name | about)
                data = commit["files"][path]
                about |= {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Content-Type": "application/octet-stream"}
                self.answer(200, raw=data, headers=about | {"Accept-Ranges": "none"})
            return None

        def at(self, repo_id, revision):
            commit = hub.commit(repo_id, revision or "main")
            if commit is None:
                self.fault(404, "RevisionNotFound")
            return commit

    repo, rest = "([^/]+/[^/]+)", "(.+)"
    ROUTES = [
        ("/api/whoami-v2", Handler.whoami),
        ("/api/repos/create", Handler.create),
        ("/api/validate-yaml", Handler.validate),
        (f"/api/models/{repo}/preupload/{rest}", Handler.preupload),
        (rf"/{repo}\.git/info/lfs/objects/batch", Handler.batch),
        ("/lfs/([0-9a-f]{64})", Handler.store),
        (f"/api/models/{repo}/commit/{rest}", Handler.commit),
        (f"/api/models/{repo}/tree/([^/]+)(?:/(.*))?", Handler.tree),
        (f"/api/models/{repo}(?:/revision/{rest})?", Handler.info),
        (f"/{repo}/resolve/([^/]+)/{rest}", Handler.resolve),
    ]
    return Handler
