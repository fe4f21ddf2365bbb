# SPDX-License-Identifier: MIT
"""A verdict survives whatever carries a log: prefixes that are listed nowhere, encodings, several sources, cuts."""

from __future__ import annotations

import html
import io
import json
import random
from collections.abc import Callable, Iterator

import pytest

from memguard.diagnose.lines import wide_encoding_of
from memguard.diagnose.prefixes import learn
from memguard.diagnose.scan import classify_stream
from testbed.failures import labelled_logs

SEEDS = range(1)
KEPT_SHARE = 0.99
# Each carrier carries every so many-th log, beginning with another one, so that all of them are carried by some.
STRIDE = 6
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# A line of a log and its number, with a source of chance -> the line as something else writes it.
Carrier = Callable[[random.Random, int, str], str]


ALL_LOGS = [log.text for log in labelled_logs()]


def clock(number: int) -> str:
    """A time of day that goes on with the lines."""
    return f"{10 + number // 3600 % 14:02}:{number // 60 % 60:02}:{number % 60:02}"


def identity(chance: random.Random, length: int = 12) -> str:
    """Hexadecimal digits, as containers and jobs are named."""
    return "".join(chance.choice("0123456789abcdef") for _ in range(length))


CARRIERS: dict[str, Carrier] = {
    "job and step": lambda _, n, line: f"build (qemux86-64)\tRun kas build\t2025-02-24T{clock(n)}.5771753Z {line}",
    "offset and stream": lambda _, n, line: f"2025-02-24T{clock(n)}.577175Z 01O+{line}",
    "branch": lambda _, n, line: f"[yocto/scarthgap-{n % 2}] {line}",
    "runtime": lambda _, n, line: f"2025-02-24T{clock(n)}.577175331+01:00 stderr F {line}",
    "words and numbers": lambda chance, n, line: f"{identity(chance)} worker {n} says {line}",
    "quoted step": lambda _, n, line: f'Step #{n % 2} - "build": {line}',
    "stage": lambda _, n, line: f"#12 [build 3/7] {n / 10 + 87:.2f} {line}",
    "arrow": lambda _, n, line: f" => => # {line}",
    "seconds": lambda _, n, line: f"{n / 10 + 87:.2f} {line}",
    "journal": lambda _, n, line: f"{MONTHS[n % 3]} 24 {clock(n)} host podman[{4000 + n}]: {line}",
    "syslog of 5424": lambda _, n, line: f"<30>1 2025-02-24T{clock(n)}.57Z host app {n} - - {line}",
    "weekday": lambda _, n, line: f"build\t24-Feb-2025 {clock(n)}\t{line}",
    "bars": lambda _, n, line: f"{clock(n)} | INFO | builder#{n} | {line}",
    "pod": lambda chance, _, line: f"build-7f9c{chance.randrange(9)}-x2x {'step-compile'} {line}",
    "tilde": lambda _, n, line: f"~~{n}~~ {line}",
    "unit": lambda _, n, line: f"@{n + 1700000000}.577 (agent-{n % 3}) :: {line}",
    "key and value": lambda chance, n, line: (
        f"time=2025-02-24T{clock(n)}Z level={chance.choice(('info', 'error'))} msg={json.dumps(line)}"
    ),
    "json of docker": lambda _, n, line: json.dumps(
        {"log": line + "\n", "stream": "stderr", "time": f"2025-02-24T{clock(n)}Z"}
    ),
    "json of others": lambda chance, n, line: json.dumps({"ts": n, "id": identity(chance), "event": {"body": line}}),
    "service message": lambda _, n, line: (
        f"##service[message text='{line.replace(chr(39), '|' + chr(39))}' status='NORMAL' at='{n}']"
    ),
    "span": lambda _, n, line: f'<span class="l{n}">{html.escape(line)}</span>',
    "font": lambda _, _n, line: f'<font color="#CC0000">{html.escape(line)}</font>',
    "colours": lambda _, n, line: f"\x1b[36m[{n}]\x1b[0m \x1b[1mbuild\x1b[0m: {line}",
}
ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig")


def verdict(log: bytes) -> str:
    """What is said of a log."""
    return classify_stream(io.BytesIO(log)).verdict


PLAIN = {log: verdict(log.encode()) for log in ALL_LOGS}


def some_logs(first: int) -> list[str]:
    """A part of the logs, another one for each number."""
    return ALL_LOGS[first % STRIDE :: STRIDE]


def allowed(count: int) -> int:
    """How many of so many logs may lose their verdict."""
    return round((1 - KEPT_SHARE) * count)


def carried(log: str, carrier: Carrier, seed: int) -> str:
    """A log as a carrier writes it, with some progress around it, as each real log has."""
    chance = random.Random(seed)
    progress = [f"[{n}/9001] Building CXX object engine/part{n}.o" for n in range(chance.randrange(2, 9))]
    lines = [*progress, *log.splitlines()]
    first = chance.randrange(1000)
    return "".join(carrier(chance, first + n, line) + "\n" for n, line in enumerate(lines))


@pytest.mark.parametrize("name", CARRIERS)
def test_no_prefix_changes_the_verdict(name: str) -> None:
    """At least 99 of 100 logs keep their verdict behind a prefix, whichever it is."""
    logs = some_logs(list(CARRIERS).index(name))
    lost = [
        (PLAIN[log], log)
        for seed in SEEDS
        for log in logs
        if verdict(carried(log, CARRIERS[name], seed).encode()) != PLAIN[log]
    ]
    assert len(lost) <= allowed(len(logs) * len(SEEDS)), lost[:5]


# Of one line alone nobody knows where words end that stand before a message, without a sign: these are left out.
WORDS_ONLY = ("words and numbers", "pod")


@pytest.mark.parametrize("name", [name for name in CARRIERS if name not in WORDS_ONLY])
def test_no_prefix_changes_the_verdict_of_a_few_lines(name: str) -> None:
    """Nor does a prefix that cannot be learned, as nothing but a failure's few lines was copied."""
    logs = some_logs(list(CARRIERS).index(name) + 3)
    chance, carrier = random.Random(0), CARRIERS[name]

    def bare(log: str) -> str:
        return "".join(carrier(chance, 37 + n, line) + "\n" for n, line in enumerate(log.splitlines()))

    lost = [log for log in logs if verdict(bare(log).encode()) != PLAIN[log]]
    assert len(lost) <= allowed(len(logs)), lost[:5]


NESTED = (
    ("job and step", "quoted step"),
    ("runtime", "stage"),
    ("syslog of 5424", "bars"),
    ("bars", "weekday"),
    ("pod", "tilde"),
    ("branch", "unit"),
)


@pytest.mark.parametrize(("outer", "inner"), NESTED)
def test_no_two_prefixes_change_the_verdict(outer: str, inner: str) -> None:
    """Nor do two, one behind the other, as where a container's log is part of that of a CI system."""

    def both(chance: random.Random, number: int, line: str) -> str:
        return CARRIERS[outer](chance, number, CARRIERS[inner](chance, number, line))

    logs = some_logs(NESTED.index((outer, inner)))
    lost = [log for log in logs if verdict(carried(log, both, 1).encode()) != PLAIN[log]]
    assert len(lost) <= allowed(len(logs)), lost[:5]


def test_a_prefix_of_some_lines_is_found_behind_that_of_all() -> None:
    """What a tool puts before some of the lines that another one carries is known as well."""
    progress = [f"~~{n}~~ [{n}/90] Building x{n}.o" for n in range(9)]
    lines = [
        *progress,
        "~~9~~ 'a' step 1 = make: *** [x] Killed",
        "~~10~~ 'b' step 1 = g++: a",
        "~~11~~ 'a' step 2 = b",
    ]
    assert "make: *** [x] Killed" in [lines[9][start:] for start in learn(lines).starts_in(lines[9])]


def invented(seed: int) -> Carrier:
    """A prefix out of parts that are put together by chance."""
    chance = random.Random(seed)
    parts: list[Callable[[random.Random, int], str]] = [
        lambda _, n: clock(n),
        lambda _, n: f"2025-02-24 {clock(n)},{n % 1000:03}",
        lambda _, n: f"{1700000000 + n}",
        lambda at_once, _: identity(at_once, 8),
        lambda at_once, _: at_once.choice(("INFO", "WARN", "ERROR")),
        lambda _, n: f"worker-{n % 4}",
        lambda _, _n: "yocto build",
        lambda _, n: f"pid={n}",
    ]
    chosen = chance.sample(parts, chance.randrange(1, 4))
    if chosen[-1] is parts[4] and len(chosen) == 1:  # a level alone is no prefix but a word of the message
        chosen.append(parts[0])
    form = chance.choice(("{}", "[{}]", "({})", "<{}>", "{}:", "{} |", "{} >", "{} -"))
    end = chance.choice((" ", "  ", "\t", ": ", " | ", " -- "))
    return lambda at_once, n, line: " ".join(form.format(part(at_once, n)) for part in chosen) + end + line


def test_no_invented_prefix_changes_the_verdict() -> None:
    """At least 99 of 100 logs keep their verdict behind prefixes that chance has made."""
    tried = [(seed, log) for seed in range(40) for log in ALL_LOGS[seed % 32 :: 32]]
    lost = [
        (invented(seed)(random.Random(0), 7, ""), log)
        for seed, log in tried
        if verdict(carried(log, invented(seed), seed).encode()) != PLAIN[log]
    ]
    assert len(lost) <= allowed(len(tried)), (len(lost), lost[:8])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_encoding_changes_the_verdict(encoding: str) -> None:
    """Logs as Windows writes them say the same."""
    for log in some_logs(ENCODINGS.index(encoding)):
        assert verdict(log.replace("\n", "\r\n").encode(encoding)) == PLAIN[log], log


def test_latin_1_is_read_as_well() -> None:
    """Logs in one byte a letter, as older systems write them, say the same."""
    for log in ALL_LOGS:
        if not log.isascii():
            try:
                assert verdict(log.encode("latin-1")) == PLAIN[log], log
            except UnicodeEncodeError:
                continue
    assert verdict("make[1]: *** [x] Getötet\n".encode("latin-1")) == "memory"


def test_a_cut_end_changes_nothing() -> None:
    """A log that breaks off in the middle of a later line keeps its verdict."""
    logs = some_logs(1)
    lost = [log for log in logs if verdict((log + "[12/9001] Building CXX object engi").encode()) != PLAIN[log]]
    assert len(lost) <= allowed(len(logs)), lost


def test_sources_in_turn_change_nothing() -> None:
    """At least 99 of 100 logs keep their verdict where another source writes in between, behind its own prefix."""

    def in_turn(log: str) -> Iterator[str]:
        for number, line in enumerate(log.splitlines()):
            yield f"builder-1  | {clock(number)} {line}\n"
            yield f'cache-1 "{number}" GET /v2/blobs/{number} 200\n'

    logs = some_logs(2) + some_logs(5)
    lost = [log for log in logs if verdict("".join(in_turn(log)).encode()) != PLAIN[log]]
    assert len(lost) <= allowed(len(logs)), lost


@pytest.mark.parametrize("name", ["job and step", "runtime", "json of docker", "key and value"])
def test_a_cut_beginning_changes_nothing(name: str) -> None:
    """At least 99 of 100 logs keep their verdict where the log begins in the middle of a line."""
    logs = some_logs(3)
    lost = [log for log in logs if verdict(carried(log, CARRIERS[name], 1)[9:].encode()) != PLAIN[log]]
    assert len(lost) <= allowed(len(logs)), lost


def test_what_a_prefix_is_comes_from_most_lines() -> None:
    """A message begins behind what most lines share, also in a line that goes on as no other does."""
    lines = [f"<{n}> host-{n % 2}: {text}" for n, text in enumerate(["NOTE: a b", "[2/9] x", "make: y", "killed"] * 3)]
    prefixes = learn(lines)
    for text in ("killed", "g++: fatal error", "[7/9] z", "(x)"):
        line = f"<9> host-7: {text}"
        assert text in [line[start:] for start in prefixes.starts_in(line)]
    assert learn([]).starts_in("a: b") == [0, 3]


def test_bytes_of_two_are_known() -> None:
    """UTF-16 is known by its mark or by its zeros; other zeros are no text."""
    assert wide_encoding_of("é Killed".encode("utf-16")) == "utf-16"
    assert wide_encoding_of("make: Killed".encode("utf-16-be")) == "utf-16-be"
    assert wide_encoding_of(b"make: Killed") is None
    assert wide_encoding_of(b"\0" * 64) is None
