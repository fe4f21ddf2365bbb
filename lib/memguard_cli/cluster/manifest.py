# SPDX-License-Identifier: MIT
"""Writes the size of a build's container into the manifest of its Job, and leaves all else as it is.

Runs in: outside BitBake; pure: text in, text out.
Covers: Jobs and CronJobs among other documents of a file, which stay as they are, byte for byte; in the Job comments,
order and quotes are kept; the patch for a Job that is suspended in a cluster.
Does not cover: which size (simulation), reading and writing files (commands/plan), Helm's templates, which are no YAML.

Needs ruamel.yaml, which is imported only here.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from memguard.units import format_bytes, parse_bytes
from memguard_cli.cluster.pod import MOST, container_name, notes_on, quantity_of
from memguard_cli.errors import UserError, lacking

Node = MutableMapping[str, Any]

# Where the template of a pod lies, by kind.
_TEMPLATES = {"Job": ("spec", "template"), "CronJob": ("spec", "jobTemplate", "spec", "template")}
_THREADS, _MAKE, _LIMIT = "BB_NUMBER_THREADS", "PARALLEL_MAKE", "MEMGUARD_LIMIT"
# What separates documents: a line that begins so ends any scalar. Behind it on its line a document may begin.
_MARK = re.compile(r"^(?:---|\.\.\.)(?:[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z)|[ \t]+)", re.MULTILINE)
# Without a number there is no limit at all.
_JOBS = re.compile(r"(?<!\S)(?:-j|--jobs=?)(?:\s*(?:\d+|\$\(\w+\)))?(?!\S)")
# A key with nothing behind it, and the first "-" of the list below it: by this much lists are indented here.
_LIST = re.compile(r"^( *)[^\s#-][^\n]*:[ ]*\n(?:\s*#.*\n)*( *)(- +)", re.MULTILINE)
# The same of mappings.
_MAPPING = re.compile(r"^[^\s#-][^\n]*:[ ]*\n(?:\s*#.*\n)*( +)[^\s#-]", re.MULTILINE)


@dataclass(frozen=True)
class Room:
    """What a build's container is to have. keeps_cpus: nobody chose the CPUs, so the limit of the manifest stays."""

    cpus: int
    limit_bytes: int
    keeps_cpus: bool = False


class Manifest:
    """A file of documents with one Job, and the container in it that builds."""

    def __init__(self, text: str, container: str | None = None) -> None:
        """container: its name; else the pod's default container, or its only one. Raises UserError."""
        try:
            from ruamel.yaml import YAML
        except ImportError:
            raise UserError(lacking("--manifest", "ruamel.yaml")) from None
        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = 1 << 20  # lines are not folded
        self._parts = _split(text)
        # Every second part is a mark.
        documents = {place: self._load(place) for place in range(0, len(self._parts), 2)}
        self._place = _find_job(documents)
        self._job: Node = documents[self._place]
        _check_is_rendered(self._job)
        self._template = _template_of(self._job)
        self._name = container_name(self._template, container)
        self._container = next(one for one in self._template["spec"]["containers"] if one["name"] == self._name)

    @property
    def job_name(self) -> str:
        """The name of the Job, or what its name begins with."""
        return _name_of(self._job)

    @property
    def words(self) -> str:
        """Job and container, for people."""
        return f"{self.job_name} {self._name}"

    @property
    def cpus(self) -> int | None:
        """The whole CPUs of the container's limit, None where it has none. Raises UserError for what is no number."""
        limit = self._cpu_limit
        if limit is None:
            return None
        text = str(limit)
        try:
            cpus = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
            return max(1, int(cpus))
        except (ValueError, OverflowError):
            raise UserError(f"the CPU limit of {self.words} is {limit!r}, which is not a quantity", "8") from None

    @property
    def _cpu_limit(self) -> Any:
        return ((self._container.get("resources") or {}).get("limits") or {}).get("cpu")

    def resized(self, room: Room) -> str:
        """The whole text with requests, limits, threads and resize policy for that room.

        Raises UserError where an alias would hand them to others, too.
        """
        container = self._container
        if _is_shared(self._job, container):
            raise UserError(f"{self.words} shares its resources or its env with others by an alias (*): write them out")
        resources = _part(container, "resources")
        quantities = self._quantities(room)
        for part in ("requests", "limits"):
            there = _part(resources, part)
            for name, text in quantities.items():
                if str(there.get(name)) != text:
                    there[name] = _in_place_of(there.get(name), text)
        _write_policy(container)
        _write_threads(container, self._name)
        before = self._parts[self._place]
        self._yaml.indent(**_indents(_unix(before)))
        after = self._dump(self._job)
        if "\r\n" in before:
            after = after.replace("\n", "\r\n")
        return "".join([*self._parts[: self._place], after, *self._parts[self._place + 1 :]])

    def _quantities(self, room: Room) -> dict[str, str]:
        """CPUs and memory as Kubernetes writes them."""
        cpu = self._cpu_limit if room.keeps_cpus else room.cpus
        return {"cpu": str(cpu), "memory": quantity_of(room.limit_bytes)}

    def _load(self, place: int) -> Any:
        """The document at a place, None for one that says nothing. Raises UserError."""
        from ruamel.yaml.error import YAMLError

        text = _unix(self._parts[place])
        if all(not line.strip() or line.lstrip()[0] == "#" or line[0] == "%" for line in text.split("\n")):
            return None  # comments and directives
        try:
            return self._yaml.load(text)
        except (YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            lines = "".join(self._parts[:place]).count("\n")
            where = f"line {lines + mark.line + 1}: " if mark is not None else ""
            what = str(getattr(error, "problem", None) or error).partition("\n")[0]
            raise UserError(f"the manifest is not YAML: {where}{what}") from None

    def _dump(self, node: Any) -> str:
        text = io.StringIO()
        try:
            self._yaml.dump(node, text)
        except RecursionError:
            raise UserError(f"{self.words}: the manifest is nested too deeply") from None
        return text.getvalue()

    def patch(self, room: Room) -> str:
        """The strategic merge patch by which a suspended Job gets that room: its resources, as no more may change.

        Raises UserError for a CronJob.
        """
        if self._job["kind"] != "Job":
            raise UserError(f"{self.job_name} is a {self._job['kind']}: only a suspended Job is patched")
        quantities = self._quantities(room)
        container = {"name": self._name, "resources": {"requests": quantities, "limits": dict(quantities)}}
        return self._dump({"spec": {"template": {"spec": {"containers": [container]}}}})

    def warnings(self, room: Room, is_patch: bool) -> list[str]:
        """What in the container will keep the build from using that room; nothing is changed for it."""
        variables = {variable["name"]: variable for variable in self._container.get("env") or ()}
        found = []
        own = variables.get(_LIMIT)
        if own is not None and "value" in own and _bytes_of(own["value"]) < room.limit_bytes:
            found.append(f"{_LIMIT} is {own['value']}, and the smaller of the two counts: leave it out")
        elif own is not None and MOST in notes_on(self._template):
            found.append(f"{_LIMIT} cannot grow, and the smaller of the two counts: leave it out of a pod that grows")
        if is_patch and not _follows_cpus(variables.get(_THREADS), self._name):
            found.append(f"{_THREADS} of a Job that is there cannot change, and does not come from limits.cpu")
        if is_patch and not self._job["spec"].get("suspend"):
            found.append(f"{self.job_name} is not suspended here, and Kubernetes changes only Jobs that are")
        return found


def _split(text: str) -> list[str]:
    """Documents and the marks between them in turn; joined they are the text."""
    parts: list[str] = []
    end = 0
    for mark in _MARK.finditer(text):
        parts += [text[end : mark.start()], mark[0]]
        end = mark.end()
    return [*parts, text[end:]]


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _indents(text: str) -> dict[str, int]:
    """How far mappings and lists are indented in a document, by the first of each."""
    mapping, items = _MAPPING.search(text), _LIST.search(text)
    offset, dash = (max(0, len(items[2]) - len(items[1])), len(items[3])) if items else (2, 2)
    return {"mapping": len(mapping[1]) if mapping else 2, "sequence": offset + dash, "offset": offset}


def _find_job(documents: Mapping[int, Any]) -> int:
    """The place of the only Job."""
    jobs = [place for place, one in documents.items() if isinstance(one, MutableMapping) and _kind_of(one)]
    if len(jobs) != 1:
        have = f"{len(jobs)} Jobs: leave one" if jobs else "no Job; it needs a document of kind: Job or CronJob"
        raise UserError(f"the manifest has {have}")
    return jobs[0]


def _kind_of(document: Node) -> str | None:
    kind = document.get("kind")
    return kind if isinstance(kind, str) and kind in _TEMPLATES else None


def _name_of(job: Node) -> str:
    named = job.get("metadata")
    named = named if isinstance(named, Mapping) else {}
    return str(named.get("name") or named.get("generateName") or "without a name")


def _check_is_rendered(job: Node) -> None:
    """{{ a }} of a template without quotes is YAML of another meaning: a mapping as a key. Raises UserError."""
    for node in _references(job):
        if isinstance(node, Mapping) and any(isinstance(key, (Mapping, tuple)) for key in node):
            raise UserError(f"the Job {_name_of(job)} has a mapping as a key: this is a template; render it first")


def _template_of(job: Node) -> Node:
    """The template of the pod, of which what is read here has the shape it needs. Raises UserError."""
    who = f"the {job['kind']} {_name_of(job)}"
    _mapping(job, "metadata", who)
    template = job
    for key in _TEMPLATES[job["kind"]]:
        template = _mapping(template, key, who)
    _mapping(_mapping(template, "metadata", who), "annotations", who)
    containers = _items(_mapping(template, "spec", who), "containers", "name", who)
    if not containers:
        raise UserError(f"{who} has no pod template with containers")
    for container in containers:
        its = f"container {container['name']} of {who}"
        resources = _mapping(container, "resources", its)
        for part in ("requests", "limits"):
            _mapping(resources, part, its)
        _items(container, "resizePolicy", "resourceName", its)
        for variable in _items(container, "env", "name", its):
            _mapping(_mapping(variable, "valueFrom", its), "resourceFieldRef", its)
    return template


def _mapping(node: Node, key: str, whose: str) -> Node:
    """What is below a key, where that is a mapping or nothing. Raises UserError."""
    found = node.get(key)
    if found is not None and not isinstance(found, MutableMapping):
        raise UserError(f"{key} of {whose} is not a mapping of names to values")
    return {} if found is None else found


def _items(node: Node, key: str, named: str, whose: str) -> list[Node]:
    """The list below a key, where each of it is a mapping with a text at `named`, or nothing. Raises UserError."""
    found = [] if node.get(key) is None else node[key]
    is_list = isinstance(found, list) and all(isinstance(one, MutableMapping) for one in found)
    if not is_list or not all(isinstance(one.get(named), str) for one in found):
        raise UserError(f"{key} of {whose} is not a list of mappings, each with a text as its {named}")
    return list(found)


def _is_shared(job: Node, container: Node) -> bool:
    """Whether an alias hands what is written to others, too."""
    own = {id(node) for key in ("resources", "resizePolicy", "env") for node in _references(container.get(key))}
    others = Counter(id(node) for node in _references(job, container))
    return others[id(container)] > 1 or not own.isdisjoint(others)


def _references(root: Any, without: Any = None) -> list[Any]:
    """The mappings and lists in a tree, each as often as it is named, but for what is below `without`."""
    found: list[Any] = []
    seen: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if not isinstance(node, (Mapping, list)):
            continue
        found.append(node)
        if node is not without and id(node) not in seen:
            seen.add(id(node))
            left += node.values() if isinstance(node, Mapping) else node
    return found


def _part(node: Node, key: str) -> Node:
    """The mapping below a key, made where there is none."""
    if not isinstance(node.get(key), MutableMapping):
        node[key] = {}
    part: Node = node[key]
    return part


def _in_place_of(before: Any, text: str) -> Any:
    """A text in the quotes in which another stood."""
    return type(before)(text) if isinstance(before, str) else text


def _write_policy(container: Node) -> None:
    """Memory may be resized without a restart."""
    policy = container.get("resizePolicy") or []
    known = next((part for part in policy if part["resourceName"] == "memory"), None)
    if known is not None:
        known["restartPolicy"] = "NotRequired"
        return
    policy.append({"resourceName": "memory", "restartPolicy": "NotRequired"})
    if "resizePolicy" not in container and hasattr(container, "insert"):
        # Not at the end, where comments stand that belong to what follows.
        container.insert(list(container).index("resources"), "resizePolicy", policy)
    else:
        container["resizePolicy"] = policy


def _write_threads(container: Node, name: str) -> None:
    """As many threads and jobs as the container has CPUs, by the Downward API, so that they follow it."""
    if container.get("env") is None:
        container["env"] = []
    env = container["env"]
    places = {variable["name"]: place for place, variable in enumerate(env)}
    if _MAKE not in places:
        places[_MAKE] = len(env)
        env.append({"name": _MAKE, "value": f"-j $({_THREADS})"})
    make = env[places[_MAKE]]
    options = str(make.get("value") or "")
    counts = _JOBS.findall(options)
    if not counts or not all(f"$({_THREADS})" in each for each in counts):
        make.pop("valueFrom", None)
        jobs = f"-j $({_THREADS})"
        options = _JOBS.sub(jobs, options) if counts else f"{jobs} {options}".strip()
        make["value"] = _in_place_of(make.get("value"), options)
    threads = env[places[_THREADS]] if _THREADS in places else {"name": _THREADS}
    if not _follows_cpus(threads, name):
        threads.pop("value", None)
        threads["valueFrom"] = {"resourceFieldRef": {"containerName": name, "resource": "limits.cpu"}}
    # A variable knows only those before it.
    if places.get(_THREADS, len(env)) > places[_MAKE]:
        if _THREADS in places:
            del env[places[_THREADS]]
        env.insert(places[_MAKE], threads)


def _follows_cpus(variable: Mapping[str, Any] | None, container: str) -> bool:
    """Whether it is the whole CPUs of that container's limit."""
    source = ((variable or {}).get("valueFrom") or {}).get("resourceFieldRef") or {}
    is_own = source.get("containerName") in (None, container)
    is_whole = str(source.get("divisor") or 0) in ("0", "1")
    return is_own and is_whole and source.get("resource") == "limits.cpu"


def _bytes_of(text: Any) -> float:
    try:
        return parse_bytes(str(text))
    except ValueError:
        return float("inf")


def room_words(room: Room) -> str:
    """A size, for people."""
    return f"{room.cpus} CPUs and {format_bytes(room.limit_bytes)}"
