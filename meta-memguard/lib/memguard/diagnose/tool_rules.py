# SPDX-License-Identifier: MIT
"""How compilers, linkers, packers and other tools say that they got no memory.

Runs in: task children and the `memguard` command; pure, a table.
Does not cover: language runtimes (runtime_rules.py), tools that were killed (kill_rules.py).
"""

from __future__ import annotations

from memguard.diagnose.readers import read_enomem, read_exhausted, read_sized
from memguard.diagnose.rule import DOUBT, STATED, TOOL, rule

TOOL_RULES = (
    # gcc, binutils and whatever allocates as they do. The sizes decide.
    rule(
        STATED,
        "",
        "ut of memory allocating",
        rf"^{TOOL}?(?:.*: )?[Oo]ut of memory allocating (?P<asked>\d+) bytes"
        r"(?: after a total of (?P<total>\d+) bytes)?",
        read=read_sized,
    ),
    rule(
        STATED,
        "",
        "tried to allocate|during request for|ttempt to allocate",
        r"\b[Aa]ttempt to allocate (?P<asked>\d+)(?: bytes)? failed: out of memory\b",
        r"\b[Oo]ut of memory(?:, \w+ failed)? (?:\(allocated \d+\) )?\(tried to allocate (?P<asked>\d+) bytes\)",
        r"^(?P<program>perl): Out of memory during request for (?P<asked>\d+) bytes",
        read=read_sized,
    ),
    rule(
        STATED,
        "",
        "annot allocate ",
        rf"^{TOOL}?(?:line \d+: )?x(?:m|re|c)alloc: (?:\S+: )?cannot allocate (?P<asked>\d+) bytes"
        r"(?: \((?P<total>\d+) bytes allocated\))?",
        r"^e?heap_alloc: Cannot allocate (?P<asked>\d+) bytes of memory",
        read=read_sized,
    ),
    rule(STATED, "", "memory allocation of", r"\bmemory allocation of (?P<asked>\d+) bytes failed", read=read_sized),
    rule(
        STATED,
        "",
        "to commit|to alloc|to reserve|to realloc|annot alloc|ould not alloc",
        rf"^{TOOL}?.*\b(?:[Uu]nable|[Ff]ailed|[Cc]annot|[Cc]ould not) (?:to )?"
        r"(?:commit|alloc(?:ate)?|reserve|realloc) (?P<asked>\d+) bytes",
        read=read_sized,
    ),
    rule(
        STATED,
        "no virtual memory was left",
        "irtual memory exhausted",
        rf"^{TOOL}?(?:\*\*\* )?[Vv]irtual memory exhausted\b",
    ),
    rule(STATED, "", "emory exhausted", rf"^{TOOL}(?:.*: )?[Mm]emory exhausted\.?$", read=read_exhausted),
    rule(
        STATED,
        "no memory was left",
        "ut of memory",
        rf"^(?:FATAL ERROR: )?{TOOL}?(?:\*\*\* )?(?:(?:[Ff]atal |internal |fatal run-time )?[Ee]rror: )?"
        r"(?:BFD \([^()]*\) [\w.]+: )?[Oo]ut of memory(?:[.!]*$| (?:in|while|during|when|trying)\b)",
        r"^FATAL ERROR: ?(?:(?P<program>\w+): )?[Oo]ut of memory\b|\bOperationalError: out of memory$|"
        r"^(?:ERROR|FATAL): +out of memory$|^error: inflate: out of memory$|^Fatal glibc error: .*\bout of memory$",
    ),
    rule(
        STATED,
        "LLVM had no memory left",
        "LLVM ERROR",
        r"(?:^|: |rustc-)LLVM ERROR: (?:out of memory|Allocation failed|Unable to allocate)",
    ),
    rule(
        STATED,
        "C++ could not allocate",
        "bad_alloc",
        r"\bthrowing an instance of '?std::bad_alloc|\bwhat\(\): +std::bad_alloc|^(?:.*: )?std::bad_alloc$",
    ),
    # errno 12, by whoever says it near the end of a line, as programs do.
    rule(
        STATED,
        "",
        "annot allocate memory|rrno 12|rrno: 12|os error 12|ENOMEM",
        rf"^{TOOL}?.*(?:\b[Cc]annot allocate memory\b|\[?[Ee]rrno[ :]{{1,2}}12\b|\(os error 12\)|\bENOMEM\b|"
        r"\blzma_\w+\(?\)?.{0,40}status 11\b)"
        r"(?=$|\s*[:;,.()\[\]\"'\\]|\s+(?:in static|for|while|when|on|-|cannot|Cannot)\b)",
        read=read_enomem,
    ),
    rule(
        STATED,
        "no memory was left",
        "allocate memory|emory allocation fail|nough memory",
        rf"^(?:{TOOL}|(?:FATAL |fatal )?(?:ERROR|[Ee]rror)(?:: |, ))(?:.*[:,] )?(?:(?:[Cc]ould not|[Cc]ouldn't|"
        r"[Uu]nable to|[Ff]ailed to) (?:re-?)?allocate memory\b|[Mm]emory allocation fail(?:ed|ure)\b|"
        r"[Nn]ot enough memory\.?$)",
    ),
    # Packers.
    rule(
        STATED,
        "the compressor had no memory left",
        "enough memory|emory allocation failed|t allocate",
        r"^(?P<program>\w*(?:zstd|xz|lzma|bzip2|lz4|zopfli|cargo-deb))\b.*"
        r"(?:not enough memory|[Mm]emory allocation failed|[Cc]ouldn'?t allocate)",
    ),
    rule(
        DOUBT,
        "a memory limit given to the compressor",
        "emory usage limit",
        r"^(?:xz|lzma|unxz|zstd): .*[Mm]emory usage limit",
    ),
    # Others.
    rule(
        STATED,
        "no memory was left",
        "emory exhausted by|ut of memory|emory allocation failed|t allocate|core memory buffers",
        r"^(?P<program>dd): memory exhausted by (?:input|output) buffer of size \d+",
        r"^(?P<program>[\w.+-]*ghc[\w.-]*|cabal): out of memory \(requested \d+ bytes\)",
        r"^(?P<program>mksquashfs|unsquashfs|pigz|pbzip2|git): .*\b(?:[Oo]ut of memory|memory allocation failed)",
        r"^fatal: (?:Out of memory, \w+ failed|\w*mmap failed: Cannot allocate)",
        r"^(?P<program>rsync) error: error allocating core memory buffers\b",
        r"^<jemalloc>: .*\bout of memory\b|\bAddressSanitizer: out of memory\b|"
        r"\bValgrind's memory management: out of m",
    ),
    rule(
        STATED,
        "the build process was killed, most likely for memory",
        "not enough memory available|INDICATE OUT OF MEMORY|an out of memory",
        r"\bprocess was killed \(i\.e\. SIGKILL\)\. The typical reason",
        r"\bExitFailure \(-9\) \(THIS MAY INDICATE OUT OF MEMORY\)",
    ),
    # Microsoft's compiler and linker.
    rule(
        STATED,
        "the compiler had no memory left",
        "heap space|out of memory|create virtual memory",
        r"\bfatal error C(?:1060|1002)\b.*\bout of heap space|\bfatal error LNK1102: .*\bout of memory",
        r"\berror C3859: Failed to create virtual memory\b",
    ),
)
