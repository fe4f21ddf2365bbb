# SPDX-License-Identifier: MIT
"""`memguard doctor` over every tree, on this machine, in build directories, and with what it must refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.channels.neighbours import Board
from memguard.sense.container import Sensor
from memguard.sense.limit_id import limit_id
from memguard.sense.proc_files import find_process
from memguard.units import MIB
from memguard_cli.advice import tools
from memguard_cli.advice.container import advise
from memguard_cli.advice.facts import examine, machine_of
from memguard_cli.builds import configuration
from memguard_cli.screens.findings import as_data
from testbed.cgroup_trees import CASES, EXPECTED, FIXTURES
from testbed.command import COMMAND, environment
from testbed.configurations import MACHINE
from testbed.container import NoContainer, container

REPOSITORY = Path(__file__).resolve().parents[2]
OOM_GROUP = CASES / "kubernetes-v2-private-namespace"


def doctor(
    *words: str, cwd: Path = FIXTURES, prefix: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a clean environment."""
    return subprocess.run(
        [*prefix, *COMMAND, "doctor", *words],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def diagnose(root: Path, **given: str) -> dict[str, Any]:
    """What doctor --json would print."""
    findings = examine(root, dict(given), None, ())
    return as_data(findings, advise(findings))


@pytest.fixture
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a case, to be changed."""
    return Path(shutil.copytree(CASES / request.param, tmp_path / "root"))


@pytest.mark.parametrize("case", EXPECTED)
def test_every_tree_gives_its_numbers(case: str) -> None:
    """All that stands beside a tree is what doctor prints of it."""
    want = {key: value for key, value in EXPECTED[case].items() if key not in ("place", "shape")}
    found = diagnose(CASES / case)
    found["warnings"] = [warning["code"] for warning in found["warnings"]]
    assert {key: found[key] for key in want} == want


def test_the_command_prints_one_json_object() -> None:
    """The installed command says of a tree what the function does, with the promised keys at least."""
    done = doctor("--root", str(CASES / "docker-v2-private-namespace"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == diagnose(CASES / "docker-v2-private-namespace")
    promised = "limit_bytes limit_source used_bytes working_set_bytes host_available_bytes headroom_bytes cpus"
    promised += " cgroup_version swap_limit_bytes swap_left_bytes psi_source oom_group delegated warnings"
    assert set(promised.split()) <= set(found)
    assert all(set(warning) == {"code", "text"} for warning in found["warnings"])


def test_this_machine_is_told_for_people() -> None:
    """Without options the screen tells this container, within 80 columns."""
    done = doctor()
    assert done.returncode == 0, done.stderr
    for word in ("limit", "used", "headroom", "CPUs", "pressure", "delegated", "make"):
        assert re.search(rf"^{word}\b", done.stdout, re.MULTILINE), done.stdout
    facts, _, _ = done.stdout.partition("from this process up")
    assert max(len(line.rstrip()) for line in facts.splitlines()) <= 80


@pytest.mark.memcg
def test_a_real_container_is_told() -> None:
    """Inside a real cgroup the limit and its file are those of the cgroup."""
    try:
        with container(300 * MIB, "memguard-test") as box:
            done = doctor("--json", prefix=box.prefix)
            directory = str(box.directory)
    except NoContainer as missing:
        pytest.skip(str(missing))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["limit_bytes"] == 300 * MIB
    assert found["limit_source"].startswith(f"{directory}/memory.")
    assert found["levels"][0]["path"] == directory
    assert 0 < found["used_bytes"] < 100 * MIB
    assert found["tools"]["make"]["version"]


@pytest.mark.parametrize("words", [("--mode", "off"), ("env",), ("file",)])
def test_an_oom_group_without_memguard_costs_a_build(words: tuple[str, ...], tmp_path: Path) -> None:
    """With memory.oom.group set and mode off, said in any of three ways, the exit status is 3."""
    env = {"MEMGUARD_MODE": "off"} if words == ("env",) else {}
    if words == ("file",):
        (tmp_path / "conf").mkdir()
        (tmp_path / "conf" / "local.conf").write_text('INHERIT += "memguard"\nMEMGUARD_MODE = "off"\n')
    options = words if words[0].startswith("--") else ()
    done = doctor("--root", str(OOM_GROUP), *options, cwd=tmp_path, **env)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "memory.oom.group" in done.stdout
    assert doctor("--root", str(OOM_GROUP), "--mode", "enforce", cwd=tmp_path, **env).returncode == 0


@pytest.mark.parametrize(("reserve", "status"), [("150M", 0), ("1G", 3)])
def test_a_reserve_above_the_limit_costs_a_build(reserve: str, status: int) -> None:
    """A reserve that leaves nothing is told with exit status 3."""
    done = doctor("--root", str(CASES / "cgroup-v2-bare"), "--reserve", reserve, "--json")
    assert done.returncode == status
    codes = {warning["code"] for warning in json.loads(done.stdout)["warnings"]}
    assert ("reserve-above-limit" in codes) == (status == 3)


@pytest.mark.parametrize(
    "words",
    [
        ("--root", "/nowhere"),
        ("--root", str(REPOSITORY / "README.md")),
        ("--root", str(REPOSITORY)),
        ("--root", "n" * 300),
        ("--mode", "careful"),
        ("--reserve", "some"),
        ("--limit", "12 potatoes"),
        ("--frobnicate",),
        ("surplus",),
    ],
)
def test_a_wrong_argument_is_one_sentence(words: tuple[str, ...]) -> None:
    """What cannot be used is named in one line on stderr, with exit status 2 and no traceback."""
    done = doctor(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert words[-1] in done.stderr


def test_without_a_subcommand_help_is_shown() -> None:
    """`memguard` alone lists what there is; --version tells the version."""
    bare = subprocess.run(COMMAND, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    assert bare.returncode == 2
    assert "doctor" in bare.stderr
    words = [*COMMAND, "--version"]
    version = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    assert (version.returncode, version.stdout.split()[:2]) == (0, ["memguard,", "version"])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_fault(unbuffered: str) -> None:
    """`memguard doctor | true` ends well and says nothing, whether output goes out at once or at the end."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*COMMAND, "doctor", "--json"],
            env=environment(PYTHONUNBUFFERED=unbuffered),
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_forbidden_file_is_named() -> None:
    """A file that this user may not read costs a warning with its name; the rest is told."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody without rights")
    code = """
import os, sys
import memguard_cli.commands.doctor  # while Python's own modules may still be read
from memguard_cli.main import main
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""
    # Not below pytest's own directory, which is for one user alone.
    with tempfile.TemporaryDirectory(prefix="memguard-test-") as directory:
        tree = Path(shutil.copytree(CASES / "cgroup-v2-bare", Path(directory) / "root"))
        Path(directory).chmod(0o755)
        (tree / "sys/fs/cgroup/g/memory.stat").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", code, "doctor", "--root", str(tree), "--json"],
            env=environment(),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["limit_bytes"] == 199999488
    assert any("g/memory.stat cannot be read: Permission denied" in warning["text"] for warning in found["warnings"])


WORDS = [b"anon ", b"max", b"7", b" ", b"\n", b"-1", b"0::/", b"cgroup2", b"\0", b"9" * 5000, b"avg10=", b"."]
CONTENT = st.binary(max_size=200) | st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join)


@pytest.mark.parametrize("tree", ["kubernetes-v2-private-namespace", "cgroup-v1-memsw"], indirect=True)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(data=st.data())
def test_no_content_of_any_file_stops_it(tree: Path, data: st.DataObject) -> None:
    """Any bytes in any of the files give a diagnosis that is JSON."""
    own = tree.parent / "changed"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(tree, own)
    files = sorted(path for path in own.rglob("*") if path.is_file())
    for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=8, unique=True)):
        path.write_bytes(data.draw(CONTENT))
    found = json.loads(json.dumps(diagnose(own)))
    assert found["cpus"] > 0
    assert found["cgroup_version"] in ("v1", "v2", "hybrid", "none")


@pytest.mark.parametrize("tree", ["kubernetes-v2-private-namespace"], indirect=True)
def test_a_fifo_in_a_tree_hangs_nobody(tree: Path) -> None:
    """A tree that somebody sent in may hold FIFOs that nobody writes to in place of files."""
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        path.unlink()
        os.mkfifo(path)
    assert doctor("--root", str(tree), "--json").returncode == 0


@pytest.mark.parametrize("tree", ["docker-v1-private-namespace"], indirect=True)
def test_a_v1_root_is_not_taken_for_a_container(tree: Path) -> None:
    """v1 tells of every limit above in memory.stat: where it tells of none, nobody is told that one may be hidden."""
    (tree / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    stat = tree / "sys/fs/cgroup/memory/memory.stat"
    stat.write_text(stat.read_text().replace("limit 199999488", "limit 9223372036854771712"))
    found = diagnose(tree)
    assert (found["limit_bytes"], found["warnings"]) == (None, [])


@pytest.mark.parametrize(
    ("mode", "words"), [("enforce", "keeps a build below"), ("observe", "only observes"), ("off", "is off")]
)
def test_what_memguard_does_about_an_oom_group_is_told(mode: str, words: str) -> None:
    """Only a memguard that enforces is said to keep the build from the kill."""
    texts = [warning["text"] for warning in diagnose(OOM_GROUP, MEMGUARD_MODE=mode)["warnings"]]
    assert any(f"memguard {words}" in text for text in texts)


@pytest.mark.parametrize("tree", ["unshare-cgroup-namespace"], indirect=True)
def test_a_name_that_is_no_text_is_shown(tree: Path) -> None:
    """A cgroup may have any bytes for a name: neither they nor what a terminal would act on reach the screen."""
    pod = tree / "sys/fs/cgroup/pod"
    pod.rename(os.fsdecode(os.fsencode(pod) + b"\xff\n\x1b[2J[red]"))
    done = doctor("--root", str(tree))
    assert done.returncode == 0, done.stderr
    assert "/sys/fs/cgroup/pod???[2J[red]/" in done.stdout.replace("\n", "").replace(" ", "")
    assert "\x1b" not in done.stdout


def test_a_tree_without_any_number_is_told(tmp_path: Path) -> None:
    """Where nothing can be read the numbers are null, and it says that memguard would step aside."""
    (tmp_path / "proc").mkdir()
    found = diagnose(tmp_path)
    assert found["limit_bytes"] is None
    assert found["used_bytes"] is None
    assert [warning["code"] for warning in found["warnings"]] == ["no-memory-numbers"]
    assert doctor("--root", str(tmp_path)).returncode == 0


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build directory to write a configuration into."""
    (tmp_path / "conf").mkdir()
    return tmp_path


def test_a_build_directory_is_looked_at(build: Path) -> None:
    """In a build directory job counts are held against CPUs and memory, with what to write instead."""
    (build / "conf" / "local.conf").write_text(
        '# BB_NUMBER_THREADS = "1"\nBB_NUMBER_THREADS ?= "64"\nPARALLEL_MAKE = "-j \\\n 32"\nINHERIT += "rm_work"\n'
    )
    (build / "conf" / "site.conf").write_text('BB_NUMBER_THREADS = "16"\n')
    done = doctor("--root", str(CASES / "docker-v2-private-namespace"), "--json", cwd=build)
    found = json.loads(done.stdout)
    assert (found["bb_number_threads"], found["parallel_make"]) == (16, 32)
    texts = {warning["text"] for warning in found["warnings"] if warning["code"] == "jobs-above-cpus"}
    assert len(texts) == 2
    assert all("2.5 CPUs" in text for text in texts)
    assert any("256.0 GiB at once" in warning["text"] for warning in found["warnings"])


@pytest.mark.parametrize(
    ("text", "threads", "jobs", "inherits"),
    [
        ('INHERIT:append = " memguard"', 8, 8, True),
        ("USER_CLASSES ?= 'buildstats memguard'", 8, 8, True),
        ('BB_NUMBER_THREADS ??= "3"\nPARALLEL_MAKE = "-j5 -l 8"', 8, 5, False),
        ('BB_NUMBER_THREADS = "${@oe.utils.cpu_count(at_most=6)}"\nPARALLEL_MAKE = ""', 6, None, False),
        ('BB_NUMBER_THREADS_append = "2"\nBB_NUMBER_THREADS = "1"\nPARALLEL_MAKE_forcevariable = "-j 3"', 12, 3, False),
        ('BB_NUMBER_THREADS = "${@os.popen(\'free -g\').read()}"\nPARALLEL_MAKE = "-j ${NONE}"', None, None, False),
        ('BB_NUMBER_THREADS = "$(nproc)"\nPARALLEL_MAKE = "-j`nproc`"', None, None, False),
        ('BB_NUMBER_THREADS = "4.0"\nPARALLEL_MAKE = "-j 4.5"', None, None, False),
        ('BB_NUMBER_THREADS = "0"\nPARALLEL_MAKE = "8"', None, None, False),
        ('BB_NUMBER_THREADS = ""\nPARALLEL_MAKE = "--jobs=7 -k"', 1, 7, False),
        ('INHERIT += "icecc"\nICECC_PARALLEL_MAKE = "-j 24"\nPARALLEL_MAKE = "-j 4"', 8, 24, False),
        ('ICECC_PARALLEL_MAKE = "-j 24"\nPARALLEL_MAKE = "-j 4 -j 6"', 8, 6, False),
        ('PARALLEL_MAKE:qemuall = "-j 2"', 8, None, False),
        ('PARALLEL_MAKE:pn-chromium = "-j 2"', 8, 8, False),
    ],
)
def test_configuration_is_read_as_far_as_it_shows(
    build: Path, text: str, threads: int | None, jobs: int | None, inherits: bool
) -> None:
    """What the files say counts, with OE-Core's defaults; what only BitBake can work out is unknown, not guessed."""
    (build / "conf" / "local.conf").write_text(text)
    found = configuration.read(build, MACHINE)
    assert found is not None
    assert (found.threads, found.jobs, found.inherits_memguard) == (threads, jobs, inherits)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('PARALLEL_MAKE = "-j"', "jobs-unlimited", "sets no limit"),
        ('PARALLEL_MAKE = "-j$(nproc)"', "job-count-mistake", "BitBake runs no shell"),
        ('BB_NUMBER_THREADS = "${@multiprocessing.cpu_count()}"', "job-count-mistake", "os.cpu_count() is"),
        # As it stands in conf of public repositories.
        ('BB_NUM_THREADS ?= "4"\nPARALLEL_MAKE ?= "-j 4"', "job-count-misspelt", "BitBake reads is BB_NUMBER_THREADS"),
        ('BB_NUMBER_THREADS = "${@os.getloadavg()[0]}"', "job-count-unknown", "bitbake-getvar --value BB_NUMBER"),
        ('PARALLEL_MAKE:qemuall = "-j 2"', "job-count-unknown", "whether qemuall is among OVERRIDES"),
        ('PARALLEL_MAKE ?= "-j 2"\nrequire conf/none.inc', "job-count-unknown", "requires conf/none.inc"),
        ('BB_NUMBER_THREADS = "4" # four', "configuration-refused", "local.conf:1: BitBake cannot parse"),
    ],
)
def test_what_is_not_known_of_jobs_is_told(build: Path, text: str, code: str, words: str) -> None:
    """Where a count is unlimited, wrong or unknown, it says which and what to do; never that nothing is in the way."""
    (build / "conf" / "local.conf").write_text(text + "\n")
    done = doctor("--root", str(CASES / "cgroup-v2-limit-beyond-machine"), cwd=build)
    said = " ".join(done.stdout.split())
    assert code in said
    assert words in said
    assert "Nothing stands in the way" not in said


@pytest.mark.parametrize("tree", ["kubernetes-v2-private-namespace"], indirect=True)
def test_limits_besides_memory_are_told(tree: Path) -> None:
    """Processes, maps and overcommit each have a line of their own where they could end a build."""
    group = tree / "sys/fs/cgroup"
    (group / "pids.max").write_text("230\n")
    (group / "pids.current").write_text("30\n")
    (tree / "proc/sys/vm").mkdir(parents=True)
    (tree / "proc/sys/vm/max_map_count").write_text("10000\n")
    (tree / "proc/sys/vm/overcommit_memory").write_text("2\n")
    found = diagnose(tree)
    texts = {warning["code"]: warning["text"] for warning in found["warnings"]}
    assert "/sys/fs/cgroup/pids.max allows 230 processes and threads, 30 of them in use" in texts["pids-limit"]
    assert "below the usual 65530" in texts["map-count"]
    assert "only reserved" in texts["strict-overcommit"]
    assert "singleProcessOOMKill" in texts["oom-group"]
    (group / "pids.max").write_text("32768\n")
    assert "pids-limit" not in {warning["code"] for warning in diagnose(tree)["warnings"]}


def test_too_little_room_is_told() -> None:
    """A limit below one job of the heavy kinds is told with their sizes; a use that leaves nothing, too."""
    small = {warning["code"]: warning["text"] for warning in diagnose(CASES / "cgroup-v2-bare")["warnings"]}
    assert "not one job fits of a kernel" in small["limit-too-small"]
    high = {warning["code"]: warning["text"] for warning in diagnose(CASES / "cgroup-v2-high-below-max")["warnings"]}
    assert "below memory.max of" in high["memory-high"]
    large = CASES / "cgroup-v2-limit-beyond-machine"
    free = diagnose(large)
    assert not {"limit-too-small", "nothing-left"} & {warning["code"] for warning in free["warnings"]}
    kept = diagnose(large, MEMGUARD_RESERVE=str(free["headroom_bytes"] + free["reserve_bytes"]))
    assert "nothing-left" in {warning["code"] for warning in kept["warnings"]}


def test_a_quota_far_below_the_default_counts_is_told(build: Path) -> None:
    """BitBake counts CPUs by affinity: where a quota allows far fewer, that is said of the defaults."""
    root = CASES / "docker-v2-private-namespace"
    (build / "conf" / "local.conf").write_text("")
    done = doctor("--root", str(root), "--json", cwd=build)
    found = json.loads(done.stdout)
    assert found["cpus"] == 2.5
    assert found["bb_number_threads"] == found["parallel_make"] == machine_of(root).cpus > 5
    texts = [warning["text"] for warning in found["warnings"] if warning["code"] == "jobs-above-cpus"]
    assert len(texts) == 2
    assert all("by default" in text and "CPU quota" in text for text in texts)


def test_bitbake_is_asked_where_it_is_at_hand(build: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a shell that is set up for builds, bitbake-getvar says what does not show in the files."""
    (build / "conf" / "local.conf").write_text('PARALLEL_MAKE = "-j ${@os.getloadavg()[0]}"\n')
    programs = tmp_path_factory.mktemp("bin")
    program = programs / "bitbake-getvar"
    program.write_text('#!/bin/sh\necho "NOTE: Starting bitbake server..."\necho "-j 3 $2"\n')
    program.chmod(0o755)
    done = doctor("--json", cwd=build, BUILDDIR=str(build), PATH=f"{programs}:{os.environ['PATH']}")
    assert json.loads(done.stdout)["parallel_make"] == 3


def test_a_setting_that_bitbake_works_out_is_passed_over(build: Path) -> None:
    """A build takes what BitBake makes of such a value: that is no reason to refuse here."""
    (build / "conf" / "local.conf").write_text('MEMGUARD_MODE = "${MODE_OF_SITE}"\n')
    done = doctor("--root", str(CASES / "cgroup-v2-bare"), "--json", cwd=build)
    assert done.returncode == 0, done.stderr


def test_a_directory_without_configuration_is_no_build(tmp_path: Path) -> None:
    """Only conf/local.conf makes a build directory; a place that cannot be looked at is none."""
    assert configuration.read(tmp_path) is None
    assert configuration.read(tmp_path / ("n" * 300)) is None


def test_a_tmpdir_in_memory_is_told(build: Path) -> None:
    """Where TMPDIR is on a tmpfs, what the build writes counts as used: that is said."""
    root = Path(shutil.copytree(CASES / "cgroup-v2-bare", build / "root"))
    (build / "conf" / "local.conf").write_text('TMPDIR = "/build/tmp"\n')
    with open(root / "proc/self/mountinfo", "a") as table:
        table.write("90 22 0:60 / /build rw - tmpfs tmpfs rw,size=1g\n91 22 0:61 / /buildings rw - ext4 /dev/x rw\n")
    found = examine(root, {}, configuration.read(build), ())
    (warning,) = [warning for warning in advise(found) if warning.code == "tmpdir-in-memory"]
    assert "/build/tmp is on a tmpfs (/build)" in warning.text


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("make", "4.3", "inherited descriptors only"),
        ("make", "4.4.1", "FIFO"),
        ("ninja", "1.11.1", "none"),
        ("ninja", "1.13", "FIFO"),
        ("cargo", "1.95.0", "jobserver"),
        ("cargo", None, "not here"),
    ],
)
def test_versions_say_what_feedback_they_allow(name: str, version: str | None, words: str) -> None:
    """make has a FIFO from 4.4 on, ninja is a client from 1.13 on."""
    assert words in tools.feedback(name, version)


def test_builds_under_this_limit_are_counted(tmp_path: Path) -> None:
    """Those that live, on the board that the variable names; without one none can be."""
    place = tmp_path / "board"
    reading = Sensor().read()
    key = limit_id(Sensor(), reading)
    me = find_process(os.getpid())
    assert key is not None
    assert me is not None
    env = {"MEMGUARD_NEIGHBOURS": str(place)}
    assert json.loads(doctor("--json", **env).stdout)["neighbours"] == 0
    board = Board(str(place))
    board.write(key, *me, b"{}")
    board.write(key, 4194300, 5, b"{}")
    board.close()
    assert json.loads(doctor("--json", **env).stdout)["neighbours"] == 1
    assert re.search(r"^neighbours +1 build under this limit now *$", doctor(**env).stdout, re.MULTILINE)
    env["MEMGUARD_NEIGHBOURS"] = "off"
    assert json.loads(doctor("--json", **env).stdout)["neighbours"] is None
