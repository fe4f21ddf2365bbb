# SPDX-License-Identifier: MIT
"""A stand-in for Kubernetes' API server and a kubelet: one pod that can be resized in place.

Covers: TLS with a CA of its own, the token, what a Role allows, reading the pod and patching pods/resize; each patch is
a strategic merge, changes nothing but resources, keeps the pod's class, and leaves a pod that Kubernetes' schema takes.
The kubelet answers as a play says.
Does not cover: watches, scheduling, admission other than that; what only a real cluster can show is in
docs/kubernetes.md.
"""

from __future__ import annotations

import contextlib
import copy
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable

import kubernetes_validate
import yaml

ROLE = Path(__file__).resolve().parents[2] / "conf" / "kubernetes" / "grow-role.yml"
TOKEN, NAMESPACE, POD, CONTAINER = "the-token", "builds", "yocto-build-x7", "build"
VERSION = "1.35"
_MERGE = "application/strategic-merge-patch+json"


def pod_of(memory: str = "24Gi", **annotations: str) -> dict[str, Any]:
    """A pod with one build container of this size and a sidecar; annotations by their names after memguard/grow-."""
    size = {"cpu": "8", "memory": memory}
    resources = {"requests": size, "limits": dict(size)}
    status = {"name": CONTAINER, "image": "i", "imageID": "i", "ready": True, "restartCount": 0}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": POD,
            "namespace": NAMESPACE,
            "generation": 1,
            "annotations": {
                "kubectl.kubernetes.io/default-container": CONTAINER,
                **{f"memguard/grow-{name}": text for name, text in annotations.items()},
            },
        },
        "spec": {
            "containers": [
                {"name": CONTAINER, "image": "i", "resources": resources},
                {"name": "sidecar", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "128Mi"}}},
            ]
        },
        "status": {
            "conditions": [],
            "containerStatuses": [{**status, "resources": copy.deepcopy(resources)}],
        },
    }


@dataclass
class ApiServer:
    """The server, its pod, and what was asked of it.

    play:    "done", "slow" (seconds in `delay_s`), "deferred", "infeasible", "failing", "forbidden", "quota", "gone" or
             "old" (a cluster without pods/resize).
    granted: called with the container's new limit, as Kubernetes writes it.
    refused: requests that Kubernetes would not have taken, each with the reason.
    """

    pod: dict[str, Any]
    play: str = "done"
    delay_s: float = 0.5
    granted: Callable[[str], object] = lambda memory: None
    patches: list[dict[str, Any]] = field(default_factory=list)
    reads: int = 0
    refused: list[str] = field(default_factory=list)
    port: int = 0
    _due_s: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, verb: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and object for one request."""
        with self._lock:
            return self._answer(verb, path, headers, body)

    def _answer(self, verb: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        if headers.get("Authorization", "").lower() != f"bearer {TOKEN}":
            return _status(401, "Unauthorized")
        top = f"/api/v1/namespaces/{NAMESPACE}/pods/"
        name, _, sub = path.removeprefix(top).partition("/")
        resource = f"pods/{sub}" if sub else "pods"
        if not path.startswith(top) or not _is_allowed(verb, resource) or self.play == "forbidden":
            user = f'User "system:serviceaccount:{NAMESPACE}:memguard-grow"'
            return _status(403, f'pods "{name}" is forbidden: {user} cannot {verb} resource "{resource}"')
        if name != POD or (self.play == "gone" and self.reads):
            return _status(404, f'pods "{name}" not found', kind="pods")
        if verb == "get":
            self.reads += 1
            self._kubelet()
            return 200, self.pod
        if self.play == "old":
            return _status(404, "the server could not find the requested resource")
        if self.play == "quota":
            return _status(403, f'pods "{name}" is forbidden: exceeded quota: builds, requested: limits.memory=4Gi')
        return self._patch(headers, body)

    def _patch(self, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        patch = json.loads(body)
        fault = self._fault(headers, patch)
        if fault:
            self.refused.append(fault)
            return _status(422, fault)
        self.patches.append(patch)
        self.pod = _merged(self.pod, patch)
        self.pod["metadata"]["generation"] += 1
        self._due_s = time.monotonic() + (self.delay_s if self.play == "slow" else 0)
        self._kubelet()
        return 200, self.pod

    def _fault(self, headers: Any, patch: dict[str, Any]) -> str:
        if headers.get("Content-Type") != _MERGE:
            return f"{headers.get('Content-Type')} would replace the list of containers"
        after = _merged(self.pod, patch)
        try:
            kubernetes_validate.validate(after, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return str(error)
        if _without_resources(after) != _without_resources(self.pod):
            return "only resources may change"
        if _class_of(after) != _class_of(self.pod):
            return "Pod QOS Class may not change as a result of resizing"
        return ""

    def _kubelet(self) -> None:
        """What the kubelet makes of the size that the spec asks for."""
        status = self.pod["status"]
        (actual,) = status["containerStatuses"]
        wanted = self.pod["spec"]["containers"][0]["resources"]
        if actual["resources"] == wanted:
            status["conditions"] = []
            return
        kinds = {
            "deferred": ("PodResizePending", "Deferred", "Node didn't have enough resource: memory"),
            "infeasible": ("PodResizePending", "Infeasible", "Node didn't have enough capacity: memory"),
            "failing": ("PodResizeInProgress", "Error", "cannot write memory.max"),
            "slow": ("PodResizeInProgress", "", ""),
        }
        is_due = self._due_s is not None and time.monotonic() >= self._due_s
        if self.play == "done" or (self.play == "slow" and is_due):
            actual["resources"], status["conditions"] = copy.deepcopy(wanted), []
            self.granted(wanted["limits"]["memory"])
        elif self.play in kinds:
            kind, reason, message = kinds[self.play]
            generation = self.pod["metadata"]["generation"]
            status["conditions"] = [
                {"type": kind, "status": "True", "reason": reason, "message": message, "observedGeneration": generation}
            ]


@contextlib.contextmanager
def api_server(directory: Path, pod: dict[str, Any], play: str = "done", **given: Any) -> Iterator[ApiServer]:
    """A server at a port of its own, with a service account in `directory`: token, ca.crt and namespace."""
    directory.mkdir(parents=True, exist_ok=True)
    key = directory / "key.pem"
    _make_certificate(key, directory / "ca.crt")
    (directory / "token").write_text(TOKEN, encoding="ascii")
    (directory / "namespace").write_text(NAMESPACE, encoding="ascii")
    kubernetes_validate.validate(pod, VERSION, strict=True)
    made = ApiServer(pod, play, **given)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "ca.crt", key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(server: ApiServer) -> dict[str, str]:
    """What a container finds in its environment."""
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}


def _make_certificate(key: Path, certificate: Path) -> None:
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += [
        "-days",
        "1",
        "-subj",
        "/CN=kubernetes",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(words, check=True, capture_output=True)


def _handler(made: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("get")

        def do_PATCH(self) -> None:
            self._answer("patch")

        def _answer(self, verb: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = made.answer(verb, self.path, self.headers, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _is_allowed(verb: str, resource: str) -> bool:
    """Whether the Role that memguard ships allows it."""
    (role,) = [part for part in yaml.safe_load_all(ROLE.read_text(encoding="utf-8")) if part["kind"] == "Role"]
    return any(resource in rule["resources"] and verb in rule["verbs"] for rule in role["rules"])


def _status(code: int, message: str, kind: str = "") -> tuple[int, dict[str, Any]]:
    details = {"kind": kind} if kind else {}
    return code, {"kind": "Status", "apiVersion": "v1", "code": code, "message": message, "details": details}


def _merged(old: Any, patch: Any) -> Any:
    """A strategic merge: objects key by key, lists of containers by name."""
    if isinstance(old, dict) and isinstance(patch, dict):
        return {key: _merged(old.get(key), patch[key]) if key in patch else old[key] for key in {**old, **patch}}
    if isinstance(old, list) and isinstance(patch, list):
        changed = {item["name"]: item for item in patch}
        kept = [_merged(item, changed.pop(item["name"], {})) for item in old]
        return [*kept, *changed.values()]
    return copy.deepcopy(patch)


def _without_resources(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**container, "resources": None} for container in pod["spec"]["containers"]]


def _class_of(pod: dict[str, Any]) -> str:
    resources = [container.get("resources", {}) for container in pod["spec"]["containers"]]
    if not any(resources):
        return "BestEffort"
    is_guaranteed = all(
        each.get("requests", each.get("limits")) == each.get("limits") and {"cpu", "memory"} <= set(each["limits"])
        for each in resources
    )
    return "Guaranteed" if is_guaranteed else "Burstable"
