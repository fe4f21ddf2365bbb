# SPDX-License-Identifier: MIT
"""The API server, spoken to with the service account of the pod that this runs in.

Runs in: outside BitBake; needs the official client of Kubernetes.
Covers: token, CA and namespace; the pod's name; reading the pod and patching its size; errors in words.
Does not cover: what is asked for (pod), waiting for it (resize).

BitBake cleans its environment, so the commands it starts see none of the variables that a container gets. The API
server is then found by its name, and the pod by that of its host.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memguard_cli.errors import UserError, lacking

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVER = {"KUBERNETES_SERVICE_HOST": "kubernetes.default.svc", "KUBERNETES_SERVICE_PORT": "443"}
# Seconds to connect, and to wait for an answer.
_PATIENCE = (5, 15)
_PATCH = "application/strategic-merge-patch+json"


class Refused(Exception):
    """The cluster does not do what was asked; the text says why."""


class Account:
    """One pod, by its own service account.

    Raises UserError where this is no pod, the client is not installed, or the account may not do what is asked.
    """

    def __init__(self, directory: Path = ACCOUNT, pod: str | None = None) -> None:
        """directory: with the files token, ca.crt and namespace; pod: its name, else that of this host."""
        hint = "the pod needs automountServiceAccountToken: true, see docs/kubernetes.md"
        if not directory.is_dir():
            raise UserError(f"no service account in {directory}: {hint}")
        try:
            from kubernetes import client, config
        except ImportError:
            raise UserError(lacking("memguard grow", "'kubernetes>=32'")) from None
        self.pod_name = pod or socket.gethostname()
        self._token = directory / "token"
        environment = {name: os.environ.get(name) or value for name, value in _SERVER.items()}
        configuration = client.Configuration()
        try:
            self._namespace = (directory / "namespace").read_text(encoding="utf-8").strip()
            loader = config.incluster_config.InClusterConfigLoader(
                str(self._token), str(directory / "ca.crt"), environ=environment
            )
            loader.load_and_set(configuration)
        except (OSError, UnicodeDecodeError, config.ConfigException) as error:
            raise UserError(f"no service account in {directory} ({error}): {hint}") from None
        configuration.retries = False
        self._server = configuration.host
        self._api = client.CoreV1Api(client.ApiClient(configuration))

    def read(self) -> Mapping[str, Any]:
        """The pod. Raises Refused where it is gone."""
        return self._ask(self._api.read_namespaced_pod)

    def resize(self, patch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for another size; the pod as it is then. Raises Refused where the API server does not take it."""
        return self._ask(self._api.patch_namespaced_pod_resize, body=patch, _content_type=_PATCH)

    def _ask(self, call: Any, **given: Any) -> Mapping[str, Any]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            # As plain JSON: the client's own classes know the fields of one version of Kubernetes.
            response = call(self.pod_name, self._namespace, _preload_content=False, _request_timeout=_PATIENCE, **given)
            if not 200 <= response.status < 300:
                raise self._refusal(response.status, response.reason, response.data)
            pod: Mapping[str, Any] = json.loads(response.data)
        except ApiException as error:
            raise self._refusal(error.status, error.reason, error.body) from None
        except (HTTPError, OSError, ValueError) as error:
            raise Refused(f"no answer from the API server at {self._server}: {error}") from None
        return pod

    def _refusal(self, status: int, reason: str, body: Any) -> Exception:
        """What an answer other than "OK" means."""
        try:
            said = json.loads(body)
            message, kind = str(said["message"]), (said.get("details") or {}).get("kind")
        except (ValueError, TypeError, KeyError, AttributeError):
            message, kind = f"{status} {reason}", None
        if status == 401:
            return UserError(f"the API server at {self._server} does not take the token in {self._token}")
        # Quotas and limit ranges forbid, too, and no role changes that.
        if status == 403 and " cannot " in message:
            return UserError(f"{message}: the service account needs the role of conf/kubernetes/grow-role.yml")
        if status == 404 and kind == "pods":
            return Refused(f"there is no pod {self.pod_name} in {self._namespace}; if it has another name: --pod NAME")
        if status == 404:
            return Refused("this cluster cannot resize pods in place, which needs Kubernetes 1.33")
        return Refused(message)


def parse_quantity(text: str) -> int:
    """Bytes meant by a quantity of Kubernetes: "24Gi", "1500M" (of 1000), "1e9". Raises ValueError."""
    from kubernetes.utils.quantity import parse_quantity as parse

    return int(parse(text))
