# SPDX-License-Identifier: MIT
"""How limits other than the container's memory are said, many of them in the words of memory.

Runs in: task children and the `memguard` command; pure, a table.
Covers: threads, mappings, address space, locked memory, graphics, disks, files; the memory of other machines.
"""

from __future__ import annotations

from memguard.diagnose.readers import read_limit, read_setting
from memguard.diagnose.rule import CAUSE, WEAK, Remedy, rule

LIMIT_RULES = (
    rule(
        CAUSE,
        "",
        "EAGAIN|Out of system resources|memory map areas|ddress space|virtual memory limit|guest_base|"
        "guest memory|Error mapping file|VmData|CUDA|pinned memory|GPU|DEVICE_MEMORY|device memory|"
        "CL_MEM|max virtual memory|remote: |fork rejected",
        r"(?P<threads>pthread_create(?:: | failed \()EAGAIN|Cannot create .{0,40}thread\. Out of system resources)",
        r"(?P<pids>\bfork rejected by pids controller\b)",
        r"(?P<maps>\bmaximum number of memory map areas\b|\bmax virtual memory areas\b)",
        r"(?P<space>\b[Uu]nable to reserve \S+ bytes of (?:virtual )?address space|\bvirtual memory limit\b.*exceed|"
        r"\bqemu(?!-system)(?:-\w+)*: (?!cannot set up guest memory).*(?:guest_base|guest memory|Error mapping file|"
        r"guest address)|"
        r"\bguest_base to satisfy\b)",
        r"(?P<data>\bVmData \d+ exceed data ulimit\b)",
        r"(?P<gpu>\bCUDA error: out of memory|\bCUDA_ERROR_OUT_OF_MEMORY|\bpinned memory: out of memory|"
        r"\bCUDA out of memory|\bout of device memory\b|\bERROR_OUT_OF_DEVICE_MEMORY\b|"
        r"\bCL_(?:MEM_OBJECT_ALLOCATION_FAILURE|OUT_OF_RESOURCES)\b)",
        r"(?P<remote>^remote: (?:fatal: |error: )?.*(?:[Oo]ut of memory|[Cc]annot allocate|died of signal 9))",
        read=read_limit,
    ),
    # Settings: of a script's trace, of advice. Alone they are no failure.
    rule(
        WEAK,
        "",
        "max_map_count|ulimit -v|RLIMIT_",
        r"(?P<maps>\bvm\.max_map_count\b)",
        r"(?P<space>\bulimit -v \d|\bRLIMIT_AS\b)",
        r"(?P<data>\bRLIMIT_DATA\b)",
        read=read_setting,
    ),
    rule(
        CAUSE,
        "a limit of processes (pids.max, ulimit -u)",
        "temporarily unavailable|OS thread|new thread|pthread_create|spawn thread|resource: pids|NPROC|PIDPressure",
        r"(?i:\b(?:fork\w*|threads?|clone|spawn|system_error)\b.*\bResource temporarily unavailable)|"
        r"\bfailed to create new OS thread\b",
        r"\bcan't start new thread\b|\bpthread_create failed\b|\bfailed to spawn thread\b|\bRLIMIT_NPROC\b",
        r"^\s*what\(\): +Resource temporarily unavailable|\blow on resource: pids\b|\bcondition: \[PIDPressure",
        remedy=Remedy.THREADS,
    ),
    rule(
        CAUSE,
        "the node ran out of disk space for containers",
        "phemeral|EmptyDir|DiskPressure",
        r"low on resource: ephemeral-storage|[Ee]phemeral (?:local )?storage .*exceed",
        r"\bUsage of EmptyDir volume\b.*\bexceeds\b|\bcondition: \[DiskPressure",
    ),
    rule(
        CAUSE,
        "a limit of watched files (fs.inotify)",
        "inotify|file watchers",
        r"\bfs\.inotify\.max_user_(?:watches|instances)|\bnumber of file watchers reached\b",
    ),
    rule(
        CAUSE,
        "the disk is full",
        "o space left|disk space|uota|ENOSPC|out of disk|allocate block",
        r"\b[Nn]o space left on device|\bdisk space monitor action is \"?(?:STOPTASKS|STOP|ABORT|HALT)|"
        r"Disk quota exceeded|\bexceeding \w+ quota\b",
        r"\bENOSPC\b|lack of disk space|ran out of disk|\bCould not allocate block in ext\d filesystem",
    ),
    rule(
        CAUSE,
        "a limit of files: their size, or how many are open",
        "ile too large|ile size limit|FSIZE|XFSZ|Too many open files|EMFILE|ENFILE",
        r"\bFile too large\b|\b[Ff]ile size limit exceeded\b|\bSIGXFSZ\b|\bToo many open files\b|\bE[MN]FILE\b",
    ),
    rule(CAUSE, "the limit of CPU time (ulimit -t)", "CPU time limit|XCPU", r"\bCPU time limit exceeded\b|\bSIGXCPU\b"),
    rule(CAUSE, "TeX reached a capacity of its own", "TeX capacity", r"^! TeX capacity exceeded"),
    rule(
        CAUSE,
        "the stack overflowed",
        "tack overflow|StackOverflow|call stack size|stack smashing",
        r"\b[Ss]tack overflow\b|\bStackOverflowError\b|\bMaximum call stack size exceeded\b",
    ),
    rule(
        CAUSE,
        "the program does not fit in the memory of its target",
        "overflowed by|will not fit",
        r"\bregion [`'\"]?[\w.]+['\"]? overflowed by \d+|\bwill not fit in region\b",
    ),
)
