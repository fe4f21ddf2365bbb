# SPDX-License-Identifier: MIT
"""How often a verdict is right, and time to judge a log of 100 MB, beside grep -c for five words of memory kills.

Right: over all logs of tests/fixtures/failure-logs. Time: three kinds of log, written for the run: what ninja echoes of
C++ compilers, what Kbuild does, and compiler warnings.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from memguard.diagnose.scan import classify, classify_stream
from testbed.failures import Labelled, labelled_logs

from .statistics import spread

TARGET_MB_PER_S = 50
VERDICTS = ("memory", "other", "unclear")
WORDS = "Killed|out of memory|annot allocate memory|memory exhausted|signal 9"
KILL = "| g++: fatal error: Killed signal terminated program cc1plus\n"


def cxx(number: int) -> str:
    """A line of ninja's, as long as those of a large C++ project."""
    includes = " ".join(f"-I/build/tmp/work/core2-64-poky-linux/llvm/18.1.8/git/lib/memory{part}" for part in range(8))
    return f"[{number}/9000] /build/tmp/hosttools/g++ -DNDEBUG -O2 {includes} -o O{number}.o -c /git/O{number}.cpp\n"


def kbuild(number: int) -> str:
    """A line of the kernel's build."""
    return f"  CC      drivers/net/ethernet/driver{number}.o\n"


def warning(number: int) -> str:
    """A warning of gcc's with its source."""
    return f"lib/Memory{number}.cpp:137:12: warning: unused [-Wunused]\n  137 |   allocate(x{number});\n      |   ^~~\n"


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench explain", description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100, help="size of each log")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both, in turn")
    options = parser.parse_args(arguments)
    print("\n".join(confusion(labelled_logs())), end="\n\n")
    print(f"{'log':<10}{'explain MB/s':>24}{'grep -c MB/s':>24}")
    with tempfile.TemporaryDirectory() as directory:
        for kind in (cxx, kbuild, warning):
            report(Path(directory) / "log", kind, options.megabytes, options.rounds)
    print(f"target: {TARGET_MB_PER_S} MB/s; CPU time; largest resident so far {resident_mib():.0f} MiB")
    return 0


def confusion(logs: Iterable[Labelled]) -> Iterator[str]:
    """The lines of the confusion matrix, with precision and recall of each verdict."""
    counts = Counter((log.verdict, classify(log.text.splitlines()).verdict) for log in logs)
    yield f"{'right is':<10}" + "".join(f"{verdict:>9}" for verdict in VERDICTS) + f"{'precision':>12}{'recall':>9}"
    for verdict in VERDICTS:
        hits = counts[verdict, verdict]
        judged_so, are_so = (sum(counts[pair] for pair in counts if pair[side] == verdict) for side in (1, 0))
        cells = "".join(f"{counts[verdict, judged]:>9}" for judged in VERDICTS)
        yield f"{verdict:<10}{cells}{share(hits, judged_so):>12}{share(hits, are_so):>9}"


def share(part: int, whole: int) -> str:
    """A part of a whole in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def report(path: Path, kind: Callable[[int], str], megabytes: int, rounds: int) -> None:
    """Measure one kind of log; a kill stands in its middle."""
    block = "".join(map(kind, range(2000)))
    with open(path, "w", encoding="utf-8") as log:
        for part in (block, KILL, block):
            for _ in range(1 if part is KILL else megabytes * 500_000 // len(block)):
                log.write(part)
    size_mb = path.stat().st_size / 1e6
    speeds: dict[str, list[float]] = {"explain": [], "grep": []}
    for _ in range(rounds):
        started = time.process_time()
        with open(path, "rb") as source:
            finding = classify_stream(source)
        speeds["explain"].append(size_mb / (time.process_time() - started))
        assert finding.program == "cc1plus"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(["grep", "-cE", WORDS, str(path)], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        speeds["grep"].append(size_mb / max(used_s, 0.001))
    print(f"{kind.__name__:<10}{spread(speeds['explain'], digits=0):>24}{spread(speeds['grep'], digits=0):>24}")


def resident_mib() -> float:
    """The most this process had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
