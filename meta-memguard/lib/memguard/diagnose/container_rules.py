# SPDX-License-Identifier: MIT
"""How container runtimes, Kubernetes, CI services and batch systems say that memory ended.

Runs in: task children and the `memguard` command; pure, a table.
Does not cover: exit statuses (kill_rules.py).
"""

from __future__ import annotations

from memguard.diagnose.readers import read_oomkilled
from memguard.diagnose.rule import STATED, Remedy, rule

CONTAINER_RULES = (
    rule(
        STATED,
        "",
        "OOMKill|OOM Kill|OOM-kill|OOM kill|OOM_KILL|OOM-Kill|oom_killed",
        r"\bOOM[ _-]?(?:[Kk]ill(?:ed|ing)|KILLED)\b|\boom_killed\b",
        read=read_oomkilled,
    ),
    rule(
        STATED,
        "the pod was evicted: its node ran low on memory",
        ': memory|MemoryPressure|esourceName="memory"|reclaim memory|InsufficientMemory|memory.available',
        r"[Nn]ode was low on resource: memory",
        r"[Nn]ode had condition: \[[^\]]*MemoryPressure",
        r"\b(?:must evict|evicting) pods?\b.*\bresourceName=\"memory\"|\battempting to reclaim memory\b",
        r"\b(?:EvictionThresholdMet|NodeHasInsufficientMemory)\b.*[Mm]emory",
        remedy=Remedy.REQUEST,
    ),
    rule(
        STATED,
        "the container reached its memory limit",
        "memory limit|emory limit of|memory usage|allowed memory|memory (used over",
        r"\bContainer \S+ exceeded (?:its )?memory limit",
        r"\b(?:build|job|container|dyno|process|worker) (?:has )?exceeded the memory limit\b",
        r"\bContainer killed due to memory usage|\bexceeded (?:the )?maximum (?:allowed )?memory\b|"
        r"\bexceeded its memory limit\b",
        r"\bOut of memory \(used over\b|\b[Mm]emory limit of \d+(?:\.\d+)? ?\w+ (?:was |has been )?exceeded\b",
    ),
    rule(
        STATED,
        "the container or node had no memory left",
        'ystem OOM|SystemOOM|TaskOOM|OutOfMemory|container oom|"oom"|out of memory condition|/tasks/oom|by OOM|'
        "Out of memory|out of memory|emory quota|OOM error|OOMError",
        r"\bSystem OOM encountered, victim process: (?P<program>[\w.+-]+)",
        r"\bSystemOOM\b|\bTaskOOM\b|\bOutOfMemoryKilled\b|\bOutOfMemory: container killed\b",
        r"\bcontainer oom [0-9a-f]{6,}|\"(?:[Ss]tatus|[aA]ction|Type)\": ?\"oom\"|"
        r"due to an out of memory condition\b",
        r"(?:^|\s|\")/tasks/oom\b|\bkilled by (?:the )?OOM\b(?!-|_|\w)",
        r"\b[Cc]ontainer (?:was |has been )?killed\b.{0,20}\b[Oo]ut of memory\b|"
        r"\bMemory quota (?:vastly )?exceeded\b",
        r"^(?!.*\b(?:[Ii]f|[Ww]hen|may|might)\b).*\b(?i:pod|container|runner|agent|instance|job|"
        r"machine) (?:process )?(?:has |had |was )?(?:ran|run|"
        r"running) out of memory\b|\bbecause (?:the |its |your )?[\w ]{1,30}\b(?:ran|has run) out of memory\b",
        r"^(?!.*\b(?:[Ii]f|[Ww]hen|may|might)\b).*\b(?:was|were|been|got) (?:killed|"
        r"terminated)\b[^.;]{0,40}\b[Oo]ut of memory\b(?!\?)",
    ),
    rule(
        STATED,
        "the batch system killed it for its memory limit",
        "emory limit|oom_kill event|oom-kill event|exceeded limit|OUT_OF_MEMORY|Out Of Memory|memory resource limit|"
        "hard limit|exceeded memory|over memory limit|MEMLIMIT",
        r"\b[Ee]xceeded (?:job |step )?memory limit\b.*(?:at some point|killed|\(\d+ > \d+\))",
        r"\bDetected \d+ oom[_-]kill event|\btask \d+: Out Of Memory$|\bOUT_OF_MEMORY\b +\d+:\d+",
        r"\bp?v?mem(?:ory)? .{0,40}\bexceeded limit\b|TERM_MEMLIMIT|\bJob exceeded a memory resource limit\b",
        r"\bexceeds job (?:hard|soft) limit \"(?:h_|s_)(?:vmem|rss|data)\"|\bhas gone over memory limit of\b|"
        r"\bhas exceeded memory allocation on\b",
        remedy=Remedy.BATCH,
    ),
)
