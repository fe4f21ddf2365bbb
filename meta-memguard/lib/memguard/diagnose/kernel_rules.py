# SPDX-License-Identifier: MIT
"""How kernels, systemd and other guards of a whole machine say that they killed for memory.

Runs in: task children and the `memguard` command; pure, a table.
"""

from __future__ import annotations

from memguard.diagnose.readers import read_trace, read_victim
from memguard.diagnose.rule import STATED, Remedy, rule

KERNEL_RULES = (
    # Old kernels: "Kill process N (name) score M or sacrifice child", then "Killed process N (name) total-vm:".
    rule(
        STATED,
        "",
        "Kill process|Killed process|kill process",
        r"(?P<memcg>[Mm]emory cgroup )?(?:[Oo]ut of memory|OOM)(?: \(\w+\))?: [Kk]ill(?:ed)? process \d+,? ?"
        r"\((?P<program>[^)]*)\)",
        read=read_victim,
    ),
    rule(
        STATED,
        "",
        "Killed process",
        r"\bKilled process \d+,? (?:UID \d+,? )?\((?P<program>[^)]*)\),? (?:UID \d+,? )?(?:total-vm|vsz)",
        read=read_victim,
    ),
    rule(
        STATED,
        "",
        "oom-kill:",
        r"\boom-kill:constraint=CONSTRAINT_\w+,.*\btask=(?P<program>[^,]*),pid=\d+",
        read=read_victim,
    ),
    rule(STATED, "a cgroup reached its limit", "killed as a result", r"\bTask in \S+ killed as a result of limit of "),
    rule(
        STATED,
        "the kernel killed the whole cgroup at its limit",
        "memory.oom.group",
        r"\bare going to be killed due to memory\.oom\.group set",
    ),
    rule(
        STATED,
        "the kernel looked for a victim",
        "emory cgroup out of|no killable",
        r"\bMemory cgroup out of memory\b",
        r"\bOut of memory and no killable processes|\bOut of memory: no killable process",
    ),
    rule(STATED, "", "oom_reaper", r"\boom_reaper: reaped process \d+ \((?P<program>[^)]*)\)", read=read_trace),
    rule(
        STATED, "", "oom-killer", r"(?:^|[\s\"'])(?P<asker>[^\s\"=][^\"=]{0,14}) invoked oom-killer: ", read=read_trace
    ),
    rule(
        STATED,
        "the kernel killed it: no memory, no swap",
        "was killed:",
        r"\bpid \d+ \((?P<program>[^)]*)\),.* was killed: "
        r"(?:out of swap space|failed to reclaim memory|a thread waited too long)",
    ),
    # systemd, and those that watch memory from outside the kernel.
    rule(
        STATED,
        "systemd-oomd killed the whole scope",
        "due to memory|Killed /|systemd-oomd",
        r"\bKilled \S+ due to (?:memory|swap) (?:pressure|used)",
        r"\bsystemd-oomd killed (?:[1-9]\d*|some) process|\bFailed with result 'oomd'",
        remedy=Remedy.SCOPE,
    ),
    rule(
        STATED,
        "the kernel killed it",
        "OOM killer|oom-kill",
        r"has been killed by the OOM killer|\bOOM killer killed some processes\b|"
        r"Failed with result 'oom-kill'|: oom-kill\b|\bResult=oom-kill\b|"
        r"\(Result: oom-kill\)",
    ),
    rule(
        STATED,
        "earlyoom killed it",
        "sending SIG",
        r"\bsending SIG(?:TERM|KILL) to process \d+ (?:uid \d+ )?\"(?P<program>[^\"]+)\": "
        r".*(?:badness|oom_score|VmRSS)",
    ),
    rule(
        STATED,
        "a guard of the machine's memory killed it",
        "ow memory|oomd kill|the victim",
        r"^earlyoom\b.*\blow memory! at or below SIG|\bLow memory; corrective actions? (?:is|are) required\b",
        r"^oomd kill: |\bsending SIG(?:TERM|KILL) to the victim\b",
    ),
    rule(
        STATED,
        "the kernel killed for memory while this build ran",
        "killed by the kernel for memory",
        r"\bmemguard: peak .*, [1-9]\d* killed by the kernel for memory",
    ),
)
