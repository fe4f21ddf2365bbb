# SPDX-License-Identifier: MIT
"""The size of a container in the manifest of a Job: what is written, and that all else stays, to the byte."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from memguard.units import GIB, MIB
from memguard_cli.cluster.manifest import Manifest, Room
from memguard_cli.errors import UserError

EXAMPLE = Path(__file__).resolve().parents[2] / "conf" / "kubernetes" / "build-job.yml"

# As somebody else writes one: lists that are not indented, a queue of Kueue, job counts by hand.
PLAIN = """\
# ours
apiVersion: batch/v1
kind: Job
metadata:
  generateName: image-
  labels:
    kueue.x-k8s.io/queue-name: "builds"   # the team's queue
spec:
  suspend: true
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: build
        image: i
        env:
        - name: PARALLEL_MAKE
          value: "-j 4 -l 12"
        # one for each CPU
        - {name: BB_NUMBER_THREADS, value: '4'}
        resources:
          limits:
            cpu: 4   # of 16
            memory: 8Gi
"""


def job_in(text: str) -> dict[str, Any]:
    """The Job of a manifest, if Kubernetes would take it."""
    (job,) = [part for part in yaml.safe_load_all(text) if part["kind"] in ("Job", "CronJob")]
    kubernetes_validate.validate(job, "1.35", strict=True)
    return dict(job)


def container_in(text: str) -> dict[str, Any]:
    """The container that builds."""
    (container,) = job_in(text)["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_the_example_changes_in_its_size_alone() -> None:
    """Two lines of resources and three of the policy; comments, quotes, order and the other documents stay."""
    before = EXAMPLE.read_text(encoding="utf-8")
    after = Manifest(before).resized(Room(16, 40 * GIB))
    changed = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[:2] in ("- ", "+ ")]
    assert sorted(line[2:].strip() for line in changed if line[0] == "+") == [
        "- resourceName: memory",
        'limits: {cpu: "16", memory: 40Gi, ephemeral-storage: 100Gi}',
        'requests: {cpu: "16", memory: 40Gi, ephemeral-storage: 100Gi}',
        "resizePolicy:",
        "restartPolicy: NotRequired",
    ]
    assert len([line for line in changed if line[0] == "-"]) == 2
    assert Manifest(after).resized(Room(16, 40 * GIB)) == after
    assert job_in(after)["metadata"] == job_in(before)["metadata"]


def test_a_manifest_of_another_hand_gets_all_that_it_lacks() -> None:
    """Requests like limits, threads that follow the CPUs before the jobs that follow the threads; the queue stays."""
    after = Manifest(PLAIN).resized(Room(8, 11 * GIB + 512 * MIB))
    container = container_in(after)
    size = {"cpu": "8", "memory": "11776Mi"}
    assert container["resources"] == {"limits": size, "requests": size}
    assert container["resizePolicy"] == [{"resourceName": "memory", "restartPolicy": "NotRequired"}]
    assert container["env"] == [
        {
            "name": "BB_NUMBER_THREADS",
            "valueFrom": {"resourceFieldRef": {"containerName": "build", "resource": "limits.cpu"}},
        },
        {"name": "PARALLEL_MAKE", "value": "-j $(BB_NUMBER_THREADS) -l 12"},
    ]
    for line in ("# ours", '    kueue.x-k8s.io/queue-name: "builds"   # the team\'s queue', "      - name: build"):
        assert line in after.splitlines()
    assert "# of 16" in after
    assert "# one for each CPU" in after
    assert Manifest(after).resized(Room(8, 11 * GIB + 512 * MIB)) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("-j -l 8", "-j $(BB_NUMBER_THREADS) -l 8"),
        ("-l 8 --jobs", "-l 8 -j $(BB_NUMBER_THREADS)"),
        ("-j 4 -j8", "-j $(BB_NUMBER_THREADS) -j $(BB_NUMBER_THREADS)"),
        ("-j -l $(BB_NUMBER_THREADS)", "-j $(BB_NUMBER_THREADS) -l $(BB_NUMBER_THREADS)"),
        ("-j$(BB_NUMBER_THREADS) -l 8", "-j$(BB_NUMBER_THREADS) -l 8"),
        ("-l 8", "-j $(BB_NUMBER_THREADS) -l 8"),
    ],
)
def test_no_job_count_stays_or_becomes_unlimited(before: str, after: str) -> None:
    """Also where a -j without a number stands."""
    text = Manifest(PLAIN.replace("-j 4 -l 12", before)).resized(Room(8, 16 * GIB))
    assert container_in(text)["env"][1] == {"name": "PARALLEL_MAKE", "value": after}


@pytest.mark.parametrize("other", ["containerName: side, resource: limits.cpu", "resource: limits.cpu, divisor: 1m"])
def test_threads_follow_the_whole_cpus_of_their_own_container(other: str) -> None:
    """Not those of another, nor thousandths."""
    text = PLAIN.replace("value: '4'", f"valueFrom: {{resourceFieldRef: {{{other}}}}}")
    assert "does not come from limits.cpu" in Manifest(text).warnings(Room(8, 16 * GIB), True)[0]
    source = container_in(Manifest(text).resized(Room(8, 16 * GIB)))["env"][0]["valueFrom"]
    assert source == {"resourceFieldRef": {"containerName": "build", "resource": "limits.cpu"}}
    whole = PLAIN.replace("value: '4'", "valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: '1'}}")
    assert Manifest(whole).warnings(Room(8, 16 * GIB), True) == []


WIDE = """\
kind: Job
metadata:
    name: wide
spec:
    template:
        spec:
            containers:
                -   name: build
                    image: i
                    resources:
                        limits:
                            cpu: '8'
                            memory: 8Gi
                        requests:
                            cpu: '8'
                            memory: 8Gi
"""


def test_indents_stay() -> None:
    """Of four columns, too, as they are in the Job itself, whatever other documents have."""
    after = Manifest(f"a:\n- b\n---\n{WIDE}").resized(Room(8, 16 * GIB))
    assert set(WIDE.replace("8Gi", "16Gi").splitlines()) <= set(after.splitlines())
    assert "                    resizePolicy:" in after


def test_a_patch_changes_what_may_change_of_a_suspended_job() -> None:
    """Resources alone, by the container's name; merged into the Job it is one that Kubernetes takes."""
    job = Manifest(PLAIN)
    patch = yaml.safe_load(job.patch(Room(8, 16 * GIB)))
    size = {"cpu": "8", "memory": "16Gi"}
    resources = {"requests": size, "limits": size}
    assert patch == {"spec": {"template": {"spec": {"containers": [{"name": "build", "resources": resources}]}}}}
    merged = job_in(PLAIN)
    merged["spec"]["template"]["spec"]["containers"][0]["resources"] = resources
    kubernetes_validate.validate(merged, "1.35", strict=True)
    assert job.warnings(Room(8, 16 * GIB), is_patch=True) == [
        "BB_NUMBER_THREADS of a Job that is there cannot change, and does not come from limits.cpu"
    ]
    example = Manifest(EXAMPLE.read_text(encoding="utf-8"))
    (warning,) = example.warnings(Room(8, 16 * GIB), is_patch=True)
    assert "not suspended" in warning


def test_a_cron_job_is_written_but_not_patched() -> None:
    """Its template lies one level deeper."""
    job = yaml.safe_load(PLAIN)
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "nightly"},
        "spec": {"schedule": "0 1 * * *", "jobTemplate": {"spec": job["spec"]}},
    }
    manifest = Manifest(yaml.safe_dump(cron, sort_keys=False))
    after = job_in(manifest.resized(Room(2, 4 * GIB)))
    (container,) = after["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}
    with pytest.raises(UserError, match="only a suspended Job"):
        manifest.patch(Room(2, 4 * GIB))


def test_a_limit_that_stands_in_the_environment_is_told() -> None:
    """MEMGUARD_LIMIT is the smaller one, or cannot grow."""
    variable = "        - name: PARALLEL_MAKE"
    own = PLAIN.replace(variable, f"        - {{name: MEMGUARD_LIMIT, value: 8G}}\n{variable}")
    assert ["leave it out" in found for found in Manifest(own).warnings(Room(4, 16 * GIB), False)] == [True]
    assert Manifest(own).warnings(Room(4, 8 * GIB), False) == []
    grows = own.replace(
        "  template:\n    spec:", '  template:\n    metadata: {annotations: {memguard/grow-most: "32Gi"}}\n    spec:'
    )
    assert ["cannot grow" in found for found in Manifest(grows).warnings(Room(4, 8 * GIB), False)] == [True]


def with_part(part: str) -> str:
    """A Job with that in the spec of its pod."""
    return f"kind: Job\nmetadata: {{name: nightly}}\nspec: {{template: {{spec: {{{part}}}}}}}\n"


def with_container(part: str) -> str:
    """A Job with that in its container."""
    return with_part(f"containers: [{{name: build, {part}}}]")


FOREIGN = """\
# a licence, above the first mark

---
# comments alone
---
kind: ConfigMap
data:
    n: {{ .Values.n }}
    none: null
    tilde: ~
    list:
    - a
---  # and behind a mark
{a:   1,
  b: 2}
--- {c: 3}
---
text: |
  a
  # no comment
  b
...
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "%YAML 1.2\n---\n", "# first\n", f"{FOREIGN}---\n"])
def test_all_other_documents_stay_byte_for_byte(before: str, end: str) -> None:
    """Whatever they are; and the job alone, changed alone, is what lies between them."""
    room = Room(8, 16 * GIB)
    changed = Manifest(PLAIN).resized(room)
    whole, wanted = (f"{before}{job}---\n{FOREIGN}".replace("\n", end) for job in (PLAIN, changed))
    assert Manifest(whole).resized(room) == wanted
    assert Manifest(wanted).resized(room) == wanted


@pytest.mark.parametrize(
    ("own", "others"),
    [
        ("resources: &r {limits: {cpu: 4}}", "resources: *r"),
        ("resources: {limits: &l {cpu: 4}}", "resources: {limits: *l}"),
        ("env: &e [{name: A, value: b}]", "env: *e"),
        ("resources: &r {limits: {cpu: 4}}", "resources: {<<: *r}"),
    ],
)
def test_what_an_alias_shares_with_another_container_is_not_written(own: str, others: str) -> None:
    """It would be resized, too."""
    text = with_part(f"containers: [{{name: build, {own}}}, {{name: side, {others}}}]")
    with pytest.raises(UserError, match="shares its resources or its env with others by an alias"):
        Manifest(text, "build").resized(Room(8, 16 * GIB))
    assert "side" not in Manifest(text, "build").patch(Room(8, 16 * GIB))


def test_an_alias_within_the_container_is_its_own() -> None:
    """Requests that are the limits are written as one."""
    text = with_container("resources: {limits: &l {cpu: 4, memory: 8Gi}, requests: *l}")
    (container,) = yaml.safe_load(Manifest(text).resized(Room(8, 16 * GIB)))["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "8", "memory": "16Gi"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no Job"),
        ("kind: Pod\n", "no Job"),
        (f"{PLAIN}---\n{PLAIN}", "2 Jobs"),
        ("kind: Job\nspec: {}\n", "no pod template"),
        ("kind: Job\nspec: 3\n", "spec of the Job without a name is not a mapping"),
        ("kind: [Job]\n", "no Job"),
        ("a: 2020-99-99\n", "not YAML"),
        ("a: !!int abc\n", "not YAML"),
        ("!!set a: b\n", "not YAML"),
        ("a: !!int ''\n", "not YAML"),
        (f"a: {'[' * 2000}{']' * 2000}\n", "not YAML"),
        (with_part("containers: []"), "no pod template with containers"),
        (with_part("containers: {name: build}"), "containers of the Job"),
        (with_part("containers: [build]"), "containers of the Job"),
        (with_part("containers: [{name: 5}]"), "text as its name"),
        (with_container("resources: [cpu]"), "resources of container build of the Job nightly is not a mapping"),
        (with_container("resources: {limits: 8Gi}"), "limits of container build"),
        (with_container("resources: {requests: [8Gi]}"), "requests of container build"),
        (with_container("env: {A: b}"), "env of container build of the Job nightly is not a list"),
        (with_container("env: [A=b]"), "env of container build"),
        (with_container("env: [{value: b}]"), "text as its name"),
        (with_container("env: [{name: A, valueFrom: b}]"), "valueFrom of container build"),
        (with_container("resizePolicy: memory"), "resizePolicy of container build"),
        (with_container("resizePolicy: [{restartPolicy: NotRequired}]"), "text as its resourceName"),
        (with_container("image: i").replace("{name: nightly}", "nightly"), "metadata of the Job without a name"),
        (with_container("image: {{ .Values.image }}"), "this is a template; render it first"),
        (with_container("image: i") + "---\na: 1\n---\na: [\n", "line 8: "),
        ("a: [\n", "not YAML: line"),
        ("{{ .Values.job }}\n", "manifest"),
        (PLAIN.replace("      - name: build\n", "      - {name: other}\n      - name: build\n"), "name one of"),
    ],
)
def test_what_is_no_manifest_of_one_job_is_refused(text: str, says: str) -> None:
    """One sentence that says what is missing."""
    with pytest.raises(UserError, match=says):
        Manifest(text)


def test_the_cpus_of_the_container_are_those_of_its_limit() -> None:
    """Whole ones, None where nobody says, and no number is one sentence."""
    assert Manifest(PLAIN).cpus == 4
    assert Manifest(PLAIN.replace("cpu: 4 ", "cpu: 2500m ")).cpus == 2
    assert Manifest(PLAIN.replace("            cpu: 4   # of 16\n", "")).cpus is None
    with pytest.raises(UserError, match="not a quantity"):
        assert Manifest(PLAIN.replace("cpu: 4 ", "cpu: four ")).cpus
