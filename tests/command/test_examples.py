# SPDX-License-Identifier: MIT
"""The examples of conf/: Kubernetes, containers and CI, held against the schemas of those who read them.

Nothing here is run: that needs a cluster, an image registry and somebody's CI. Their kas files are (test_kas.py).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from memguard import settings
from memguard.units import parse_bytes
from memguard_cli.main import memguard
from testbed import wheel

REPOSITORY = Path(__file__).resolve().parents[2]
CONF = REPOSITORY / "conf"
KUBERNETES = sorted((CONF / "kubernetes").glob("*.yml"))
# The first with native sidecars, the first with in-place resize on by default, and one after it.
VERSIONS = ("1.29", "1.33", "1.35")


def parts(*paths: Path) -> list[dict[str, Any]]:
    """All documents of some files."""
    return [part for path in paths for part in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_would_take_it(path: Path, version: str) -> None:
    """Every part is one that the API of that version knows, with no field that it does not know."""
    for part in parts(path):
        kubernetes_validate.validate(part, version, strict=True)


def test_a_field_that_nobody_knows_would_be_seen() -> None:
    """The schema finds a misspelt field deep in the job."""
    job = _named("Job")
    job["spec"]["template"]["spec"]["containers"][0]["resources"]["limit"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)


def _named(kind: str) -> dict[str, Any]:
    (found,) = [part for part in parts(*KUBERNETES) if part["kind"] == kind]
    return found


def _pod() -> dict[str, Any]:
    pod: dict[str, Any] = _named("Job")["spec"]["template"]["spec"]
    return pod


def _containers() -> list[dict[str, Any]]:
    return [*_pod()["initContainers"], *_pod()["containers"]]


@pytest.mark.parametrize("container", _containers(), ids=lambda container: container["name"])
def test_the_pod_is_guaranteed(container: dict[str, Any]) -> None:
    """Requests equal limits, CPU and memory, in every container: otherwise the pod is Burstable."""
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= set(resources["limits"])


def test_the_limit_comes_from_the_downward_api() -> None:
    """MEMGUARD_LIMIT is the memory limit of the very container that builds, in bytes, and a limit that is taken."""
    (build,) = _pod()["containers"]
    variables = {variable["name"]: variable for variable in build["env"]}
    source = variables["MEMGUARD_LIMIT"]["valueFrom"]["resourceFieldRef"]
    assert source == {"containerName": build["name"], "resource": "limits.memory"}
    limit = parse_bytes(build["resources"]["limits"]["memory"])
    assert settings.read({"MEMGUARD_LIMIT": str(limit)}.get).limit_bytes == limit


def test_every_variable_is_one_that_exists() -> None:
    """MEMGUARD_* in the examples are variables of the class, and those of the job reach BitBake through kas."""
    text = "".join(path.read_text(encoding="utf-8") for path in CONF.rglob("*") if path.is_file())
    assert set(re.findall(r"\bMEMGUARD_[A-Z_]+", text)) <= set(settings.VARIABLES)
    (fragment,) = parts(CONF / "kas" / "memguard.yml")
    (build,) = _pod()["containers"]
    ours = {variable["name"] for variable in build["env"] if variable["name"].startswith("MEMGUARD_")}
    assert ours <= set(fragment["env"])


def test_what_is_mounted_is_there() -> None:
    """Every mount has its volume, every volume its claim, config map or secret."""
    pod, claims = _pod(), {part["metadata"]["name"] for part in parts(*KUBERNETES)}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {mount["name"] for container in _containers() for mount in container["volumeMounts"]}
    assert mounted == set(volumes)
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] in claims
    assert volumes["kas"]["configMap"]["name"] in claims
    secrets = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for variable in pod["containers"][0]["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert secrets <= claims


def _commands() -> Iterator[list[str]]:
    """What the examples let `memguard` do, as lists of words."""
    yield _pod()["initContainers"][0]["command"]
    (compose,) = parts(CONF / "container" / "compose.yml")
    yield compose["services"]["export"]["command"]
    texts = [
        *_pod()["containers"][0]["command"],
        *(path.read_text(encoding="utf-8") for path in (CONF / "ci").glob("*.yml")),
    ]
    for text in texts:
        for found in re.findall(r"(?<![\w/-])memguard ((?:doctor|report|history (?:push|pull))[^|;\n]*)", text):
            yield ["memguard", *found.replace('"', "").split()]


@pytest.mark.parametrize("words", list(_commands()), ids=" ".join)
def test_every_command_is_one_that_exists(words: list[str]) -> None:
    """What the examples call is a subcommand that takes these arguments."""
    assert words[0] == "memguard"
    command: click.Command = memguard
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        found = command.get_command(click.Context(command), rest.pop(0))
        assert found is not None
        command = found
    command.make_parser(click.Context(command)).parse_args(rest)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("vendor.compose-spec", "container/compose.yml"),
        ("vendor.gitlab-ci", "ci/gitlab-ci.yml"),
        ("vendor.github-workflows", "ci/github-actions.yml"),
        ("vendor.gitlab-ci", "../.gitlab-ci.yml"),
        ("vendor.github-workflows", "../.github/workflows/ci.yml"),
    ],
)
def test_the_schema_of_its_reader_takes_it(schema: str, path: str, tmp_path: Path) -> None:
    """Docker Compose, GitLab and GitHub would know every key; one that is no key would be seen."""
    assert _check(schema, CONF / path).returncode == 0
    broken = tmp_path / "broken.yml"
    broken.write_text(
        (CONF / path)
        .read_text(encoding="utf-8")
        .replace("runs-on:", "runs-an:")
        .replace("image:", "imago:", 1)
        .replace("build:", "built:", 2)
    )
    assert _check(schema, broken).returncode == 1


def _check(schema: str, path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "check-jsonschema"
    return subprocess.run([program, "--builtin-schema", schema, path], capture_output=True, text=True)


def test_the_image_copies_what_is_there() -> None:
    """Each COPY of the Containerfile names a file or directory of this repository, and the package's are among them."""
    text = (CONF / "container" / "Containerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert all((REPOSITORY / path).exists() for path in copied)
    assert set(copied) == set(wheel.SOURCES)
    # What is not sent to the builder cannot be copied; a whole .venv would be sent without this.
    sent = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8")
    assert set(re.findall(r"^!(.*)$", sent, re.MULTILINE)) == set(wheel.SOURCES)
    assert re.search(r"^\*$", sent, re.MULTILINE)


def test_the_image_has_the_users_that_the_examples_name() -> None:
    """uid 1000, as Kubernetes and podman run it, and 1001, whose files GitHub's runners have; and the licence."""
    text = (CONF / "container" / "Containerfile").read_text(encoding="utf-8")
    users = set(re.findall(r"useradd --uid (\d+)", text))
    security = _pod()["securityContext"]
    assert {str(security["runAsUser"]), "1001"} == users
    github = (CONF / "ci" / "github-actions.yml").read_text(encoding="utf-8")
    assert re.findall(r"--user (\d+)", github) == ["1001"]
    assert "/usr/share/doc/meta-memguard/copyright" in text
    assert 'org.opencontainers.image.licenses="MIT"' in text


def test_threads_are_the_cpus_of_the_container() -> None:
    """BitBake counts the CPUs of the machine, so each example says those of its container, for tasks and compilers."""
    (compose,) = parts(CONF / "container" / "compose.yml")
    build = compose["services"]["build"]
    (gitlab,) = parts(CONF / "ci" / "gitlab-ci.yml")
    said = gitlab["yocto"]["variables"]
    for cpus, variables in ((build["cpus"], build["environment"]), (said["KUBERNETES_CPU_LIMIT"], said)):
        assert variables["BB_NUMBER_THREADS"] == str(cpus)
        assert variables["PARALLEL_MAKE"] == f"-j {cpus}"
    (container,) = _pod()["containers"]
    env = {variable["name"]: variable for variable in container["env"]}
    source = env["BB_NUMBER_THREADS"]["valueFrom"]["resourceFieldRef"]
    assert source == {"containerName": container["name"], "resource": "limits.cpu"}
    assert env["PARALLEL_MAKE"]["value"] == "-j $(BB_NUMBER_THREADS)"
    github = (CONF / "ci" / "github-actions.yml").read_text(encoding="utf-8")
    assert re.findall(r"BB_NUMBER_THREADS=(\d+)", github) == re.findall(r'PARALLEL_MAKE="-j (\d+)"', github)
    # kas hands on what it is told to.
    for path in (CONF / "kas" / "memguard.yml", REPOSITORY / "kas.yml"):
        (file,) = parts(path)
        assert {"BB_NUMBER_THREADS", "PARALLEL_MAKE"} <= set(file["env"])


def test_a_report_is_an_artifact() -> None:
    """GitLab and GitHub keep the page that `memguard report` writes, whether the build ended well or not."""
    (gitlab,) = parts(CONF / "ci" / "gitlab-ci.yml")
    job = gitlab["yocto"]
    assert job["artifacts"]["when"] == "always"
    assert job["artifacts"]["paths"][0] in " ".join(job["after_script"])
    (github,) = parts(CONF / "ci" / "github-actions.yml")
    steps = github["jobs"]["build"]["steps"]
    (upload,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    (report,) = [step for step in steps if "memguard report" in step.get("run", "")]
    assert upload["with"]["path"].split()[0] in report["run"]
    assert upload["if"] == report["if"] == "always()"


@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="apt-cache is not here: this is no Debian")
def test_the_image_installs_packages_that_exist() -> None:
    """Debian knows every package that the Containerfile names."""
    text = (CONF / "container" / "Containerfile").read_text(encoding="utf-8")
    words = text.partition("--no-install-recommends")[2].partition("&&")[0].replace("\\\n", " ").split()
    assert len(words) > 10
    known = subprocess.run(["apt-cache", "show", "build-essential"], capture_output=True, text=True)
    if known.returncode != 0:
        pytest.skip("apt has no lists of packages here: run apt-get update")
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", *words], capture_output=True, text=True)
    assert set(words) <= set(re.findall(r"^Package: (.*)$", shown.stdout, re.MULTILINE)), shown.stderr
