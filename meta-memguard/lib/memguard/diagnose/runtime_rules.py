# SPDX-License-Identifier: MIT
"""How language runtimes say that they had no memory left: the machine's, or that of a heap of their own.

Runs in: task children and the `memguard` command; pure, a table.
"""

from __future__ import annotations

from memguard.diagnose.readers import read_v8
from memguard.diagnose.rule import CAUSE, STATED, Remedy, rule

RUNTIME_RULES = (
    rule(
        STATED,
        "Python had no memory left",
        "MemoryError",
        r"^(?:E\s+)?(?:[\w.]*\.)?_?(?:Array)?MemoryError(?:$|:)|: MemoryError\(\)|^ERROR: .*\bMemoryError$|"
        r"^Exception: MemoryError\b",
    ),
    rule(
        STATED,
        "Ruby had no memory left",
        "failed to allocate memory",
        r"(?:^|: )\[FATAL\] failed to allocate memory|\bfailed to allocate memory \(NoMemoryError\)|"
        r"^NoMemoryError: failed to allocate memory",
    ),
    rule(
        STATED,
        "PHP reached the memory limit of its own (memory_limit)",
        "llowed memory size",
        r"\bAllowed memory size of \d+ bytes exhausted\b",
    ),
    rule(
        STATED,
        "Go had no memory left",
        "out of memory|cannot allocate memory",
        r"^(?:fatal error: )?runtime: (?:out of memory|cannot allocate memory)",
        r"^fatal error: (?:out of memory|cannot allocate memory)",
    ),
    rule(
        STATED,
        "the runtime had no memory left",
        "Out_of_memory|OutOfMemoryException",
        r"^Fatal error: exception (?:Stdlib\.)?Out_of_memory|\bSystem\.OutOfMemoryException\b",
    ),
    # Java. A thread that cannot be made is called OutOfMemoryError as well.
    rule(
        CAUSE,
        "no thread could be made: the limit of processes (pids.max, ulimit -u)",
        "native thread",
        r"\bOutOfMemoryError\b.*\bnative thread",
        remedy=Remedy.THREADS,
    ),
    rule(
        STATED,
        "the Java heap was full",
        "Expiring Daemon|Out of memory error|Daemon will|Not enough memory|OutOfMemoryError|ran out of memory and",
        r"\bExpiring Daemon because JVM \S+.*exhausted|\bDaemon will (?:expire|be stopped) .*running out of JVM ",
        r"^Not enough memory to run compilation\b",
        r"\bOut of memory error \(version |\bjava\.lang\.OutOfMemoryError\b|\bbazel ran out of memory and crashed",
        r"^(?:Caused by: |e: |error: )?OutOfMemoryError: (?:Java heap|GC overhead|Metaspace|PermGen)",
        remedy=Remedy.JAVA_HEAP,
    ),
    rule(
        STATED,
        "the Java machine got no memory",
        "ufficient memory|commit_memory|memory allocation (|enough space for",
        r"There is insufficient memory for the Java Runtime",
        r"\bos::commit_memory\(.*(?:errno=12|Cannot allocate memory|Not enough space)",
        r"Native memory allocation \(m\w+\) failed to ",
        r"Could not reserve enough space for (?:\w+ )?(?:object heap|heap|card table)",
    ),
    # V8, by what it was about to do.
    rule(
        STATED,
        "",
        "process out of memory|heap out of memory|script OOM|script out of memory|process OOM|t OOM in",
        r"^(?:# ?)?(?:FATAL ERROR: .*)?"
        r"(?:.*Allocation failed - process out of memory|.*JavaScript heap out of memory|"
        r"Fatal (?:javascript|JavaScript|process) (?:OOM|out of memory)\b)",
        read=read_v8,
    ),
    rule(
        STATED,
        "a worker ran out of its JavaScript heap",
        "ERR_WORKER_OUT_OF_MEMORY|reaching memory limit",
        r"\bERR_WORKER_OUT_OF_MEMORY\b|\bWorker terminated due to reaching memory limit",
        remedy=Remedy.V8_HEAP,
    ),
)
