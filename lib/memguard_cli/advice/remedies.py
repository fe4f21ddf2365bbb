# SPDX-License-Identifier: MIT
"""What to do about a build that memory ended: a finding and its circumstances -> sentences.

Runs in: outside BitBake; pure.
Covers: whose limit was reached, who was too large, and whether memguard was on.
Does not cover: finding that out (advice/explanation), how it looks (screens/explanation).
"""

from __future__ import annotations

from memguard.diagnose.rule import Remedy
from memguard.diagnose.verdict import Finding
from memguard.model import Mode

# What a sentence is about -> the sentence.
Advice = dict[str, str]

_JOBS_TASKS = ("do_compile", "do_install")
_KUBERNETES = (
    "Raise resources.limits.memory of the build's container, and requests.memory with it, so that the node has that "
    "much; memguard doctor shows what a build sees."
)
_OF_OTHERS = {
    Remedy.REQUEST: {
        "kubernetes": "The node ran low, not the container: a pod that uses more than it requested is evicted first. "
        "Raise resources.requests.memory to what the build uses; the limit was not reached."
    },
    Remedy.SCOPE: {
        "systemd": "systemd-oomd kills a whole scope, BitBake included. Give the build a scope and a limit of its own, "
        "which memguard keeps: systemd-run --user --scope -p MemoryMax=12G -p ManagedOOMPreference=avoid bitbake ..."
    },
    Remedy.BATCH: {
        "batch": "Request more memory for the job (Slurm: --mem=32G, PBS: -l mem=32gb, LSF: -M), or tell memguard the "
        'limit (MEMGUARD_LIMIT = "16G") where no cgroup shows it.'
    },
    Remedy.JAVA_HEAP: {
        "java": "The Java heap was full, not the container. Raise the heap for this recipe "
        '(export JAVA_TOOL_OPTIONS = "-Xmx4g"; Gradle: org.gradle.jvmargs=-Xmx4g) if the container has room for it; '
        "fewer jobs do not help."
    },
    Remedy.V8_HEAP: {
        "javascript": "The JavaScript heap was full, not the container. Raise the heap for this recipe "
        '(export NODE_OPTIONS = "--max-old-space-size=4096") if the container has room for it; fewer jobs do not help.'
    },
    Remedy.THREADS: {
        "limit": "Raise the limit of processes and threads (pids.max of the container, ulimit -u), or run fewer tasks "
        "at once (BB_NUMBER_THREADS)."
    },
    Remedy.MAPPINGS: {"limit": "Raise the limit on the host: sysctl -w vm.max_map_count=1048576."},
    Remedy.ADDRESS_SPACE: {
        "limit": "Lift the limit in the shell that starts the build (ulimit -v unlimited, ulimit -d unlimited)."
    },
}
_HEAPS = (Remedy.JAVA_HEAP, Remedy.V8_HEAP)


def advise(finding: Finding, mode: str | None = None, heaviest: str | None = None) -> Advice:
    """What to do, by what it is about ("bitbake", "kubernetes", ...); nothing where memory or a limit is not the cause.

    `mode` is MEMGUARD_MODE of that build, None without memguard; `heaviest` is the task that used most memory then.
    """
    if finding.has_succeeded:
        return {}
    own = _OF_OTHERS.get(finding.remedy, {})
    if finding.verdict == "memory" and finding.remedy not in _HEAPS:
        return {"bitbake": _for_bitbake(finding, mode, heaviest), **(own or {"kubernetes": _KUBERNETES})}
    if finding.verdict == "unclear":
        return {
            "bitbake": "Look for a kill at that time in the kernel log of the build host (dmesg | grep -i oom).",
            "kubernetes": "kubectl describe pod shows whether the last state of the container was OOMKilled.",
        }
    return own


def _for_bitbake(finding: Finding, mode: str | None, heaviest: str | None) -> str:
    recipe, task = finding.recipe, finding.task or ""
    if recipe is None and heaviest:
        recipe, _, task = heaviest.partition(" ")
    do_more = {
        None: 'or let memguard do it (INHERIT += "memguard")',
        Mode.OFF.value: 'or let memguard do it (MEMGUARD_MODE = "enforce")',
        Mode.OBSERVE.value: 'or let memguard do it rather than observe (MEMGUARD_MODE = "enforce")',
    }.get(mode, "or have memguard keep more free (MEMGUARD_RESERVE)")
    if recipe and task and not task.startswith(_JOBS_TASKS):
        return f"Run fewer tasks at once beside {recipe} {task} (BB_NUMBER_THREADS), {do_more}, and build again."
    who, name = (recipe, recipe) if recipe else ("the recipe that was built then", "RECIPE")
    return (
        f'Give {who} fewer jobs (PARALLEL_MAKE:pn-{name} = "-j 2"), {do_more}, and build again: what is already '
        "compiled is kept."
    )
