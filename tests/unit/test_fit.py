# SPDX-License-Identifier: MIT
"""What past runs make of a prediction, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench.recipes import CLASSES, generate
from hypothesis import assume, given
from hypothesis import strategies as st

from memguard.model import Footprint, Outcome, Record, Sample
from memguard.predict.fit import BOUND_BUILDS, HALF_LIFE_BUILDS, KILL_LEAST_BYTES, KILL_RATIO, Learned, learn
from memguard.units import GIB, MIB

TESTS = Path(__file__).resolve().parents[1]
PRIOR = Footprint(64 * MIB, 512 * MIB, 0, "a C++ build")
NOTHING = Footprint(0, 0, 0, "MEMGUARD_FOOTPRINT")
JOBS = (1, 2, 3, 4, 8, 16, 64)
ILL = (Outcome.FAILED, Outcome.MEMORY_KILL, Outcome.THROTTLED)


def run(
    peak_mib: float,
    jobs: int = 8,
    age: int = 0,
    outcome: Outcome = Outcome.OK,
    version: str = "1.0",
    job_mib: int | None = None,
    serial_mib: int | None = None,
    cpu_s: float = 60.0,
) -> Sample:
    """One run of a task, sizes in MiB."""
    record = Record(
        build=f"b{age}",
        recipe="foo",
        version=version,
        task="do_compile",
        machine="",
        jobs=jobs,
        peak_bytes=int(peak_mib * MIB),
        largest_process_bytes=int(peak_mib * MIB / jobs / 2),
        wall_s=60.0,
        cpu_s=cpu_s,
        outcome=outcome,
        per_job_bytes=None if job_mib is None else job_mib * MIB,
        serial_bytes=None if serial_mib is None else serial_mib * MIB,
    )
    return Sample(record, age)


def peak_mib(samples: list[Sample], jobs: int = 8, prior: Footprint = PRIOR, version: str = "1.0") -> float:
    """The predicted peak in MiB."""
    return learn(samples, prior, version).footprint.peak_bytes(jobs) / MIB


def history(*peaks_mib: float, jobs: int = 8) -> list[Sample]:
    """Runs of as many builds that ended well, the newest one last."""
    return [run(peak, jobs, len(peaks_mib) - 1 - index) for index, peak in enumerate(peaks_mib)]


SIZES = st.integers(0, 64 * GIB)
PRIORS = st.builds(Footprint, SIZES, SIZES, SIZES, st.just("known"), st.none() | SIZES)
HUGE = st.one_of(st.integers(-(1 << 70), 1 << 70), st.sampled_from([0, 1, (1 << 63) - 1, 10**400]))


def samples_of(sizes: st.SearchStrategy[int], counts: st.SearchStrategy[int]) -> st.SearchStrategy[Sample]:
    """Runs with sizes and counts as given, of any outcome, age and version."""
    records = st.builds(
        Record,
        build=st.just("b"),
        recipe=st.just("foo"),
        version=st.sampled_from(["", "1.0", "1.1", "2.0", "git"]),
        task=st.just("do_compile"),
        machine=st.just(""),
        jobs=counts,
        peak_bytes=sizes,
        largest_process_bytes=sizes,
        wall_s=st.just(1.0),
        cpu_s=st.sampled_from([0.0, 1.0, 1.2]),
        outcome=st.sampled_from(Outcome),
        per_job_bytes=st.none() | sizes,
        serial_bytes=st.none() | sizes,
    )
    return st.builds(Sample, records, counts.map(lambda count: count - 1))


SAMPLES = st.lists(samples_of(SIZES, st.integers(1, 64)), max_size=12)


def test_without_samples_it_is_the_prior() -> None:
    """What nobody built is what was thought of it."""
    assert learn([], PRIOR, "1.0") == Learned(PRIOR)


@given(SAMPLES, PRIORS, st.sampled_from(["", "1.0", "2.0"]))
def test_more_jobs_never_take_less(samples: list[Sample], prior: Footprint, version: str) -> None:
    """Whatever was seen, a prediction is not negative and rises with the jobs."""
    footprint = learn(samples, prior, version).footprint
    assert min(footprint.base_bytes, footprint.per_job_bytes, footprint.serial_bytes) >= 0
    peaks = [footprint.peak_bytes(jobs) for jobs in range(1, 65)]
    assert peaks == sorted(peaks)


@given(SAMPLES, samples_of(SIZES, st.integers(1, 64)), st.sampled_from(ILL), PRIORS)
def test_a_run_that_did_not_end_well_never_lowers(
    samples: list[Sample], another: Sample, outcome: Outcome, prior: Footprint
) -> None:
    """Killed, throttled and failed runs add to a prediction or change nothing, for every job count."""
    another = replace(another, record=replace(another.record, outcome=outcome))
    before = learn(samples, prior, "1.0").footprint
    after = learn([*samples, another], prior, "1.0").footprint
    assert all(after.peak_bytes(jobs) >= before.peak_bytes(jobs) for jobs in JOBS)


@given(st.data(), SAMPLES, PRIORS)
def test_the_order_of_samples_does_not_matter(data: st.DataObject, samples: list[Sample], prior: Footprint) -> None:
    """Only ages say what was when."""
    shuffled = data.draw(st.permutations(samples))
    assert learn(shuffled, prior, "1.0") == learn(samples, prior, "1.0")


@given(
    st.lists(samples_of(HUGE, st.one_of(st.integers(-(1 << 40), 1 << 40), st.just(10**400))), max_size=5),
    st.sampled_from([PRIOR, NOTHING, Footprint(1 << 62, 1 << 62, 1 << 62, "known")]),
)
def test_numbers_beyond_any_machine(samples: list[Sample], prior: Footprint) -> None:
    """Sizes, counts and ages that cannot be end in a footprint that can still be calculated with."""
    learned = learn(samples, prior, "1.0")
    assert learned.footprint.peak_bytes(1) >= 0
    assert 0 <= learned.confidence < 1
    assert isinstance(learned.footprint.peak_bytes(8), int)


def test_ten_thousand_samples() -> None:
    """A long history of one steady task is predicted closely above it."""
    samples = [run(1000 + index % 50, 4, index) for index in range(10_000)]
    learned = learn(samples, PRIOR, "1.0")
    assert learned.samples == 10_000
    assert 1050 <= learned.footprint.peak_bytes(4) / MIB <= 1250


@pytest.mark.parametrize("prior", [PRIOR, NOTHING, Footprint(0, 0, 8 * GIB, "known")], ids=lambda prior: prior.origin)
@pytest.mark.parametrize("jobs", [1, 8])
def test_one_run_outweighs_the_prior(prior: Footprint, jobs: int) -> None:
    """After one build the level is what was seen, whatever was thought before."""
    assert 1000 < peak_mib(history(1000, jobs=jobs), jobs, prior) < 1400


def test_margin_shrinks_with_evidence() -> None:
    """The more runs agree, the closer above them the prediction lies."""
    peaks = [peak_mib(history(*[1000.0] * builds)) for builds in (1, 2, 3, 6, 10)]
    assert peaks == sorted(peaks, reverse=True)
    assert 1000 < peaks[-1] < peaks[0] < 1400


def test_margin_widens_with_noise() -> None:
    """A task that takes now more, now less is given more than its most by a larger margin than a steady one."""
    steady, noisy = history(*[1000.0] * 6), history(900, 1100, 950, 1050, 1000, 1000)
    assert peak_mib(noisy) > peak_mib(steady)
    assert learn(noisy, PRIOR, "1.0").spread > learn(steady, PRIOR, "1.0").spread


def test_highest_of_few_runs_is_covered() -> None:
    """Of a task that now and then builds twice as much, the larger builds count."""
    assert 2150 < peak_mib(history(1000, 2000, 1000, 1000)) < 2700


def test_a_spike_is_forgotten() -> None:
    """One run that was never like the others counts for some builds, not for ever."""
    assert peak_mib(history(1000, 1000, 3000, 1000)) > 3000
    assert peak_mib(history(1000, 1000, 3000, *[1000.0] * 20)) < 1400


def test_a_run_that_had_nothing_to_do_lowers_little() -> None:
    """One run that found everything built does not pass for the task."""
    usual = history(2000, 2000, 2000, 2000)
    assert peak_mib([*usual, run(20, 8)]) > 2000
    assert peak_mib([*usual, run(20, 1)]) > 2000
    assert peak_mib([run(800, 2), run(1400, 4), run(2600, 8), run(20, 8)], 16) > 4500


def test_half_life_is_in_builds() -> None:
    """A task that grew is predicted by its newest runs, and ages alike for all runs change nothing but confidence."""
    grown = [run(1000, age=age) for age in range(6, 12)] + [run(1500, age=age) for age in range(6)]
    shrunk = [run(1500, age=age) for age in range(30, 60)] + [run(1000, age=age) for age in range(30)]
    assert 1500 < peak_mib(grown) < 2100
    assert peak_mib(shrunk) < 1400
    old = learn([replace(sample, age_builds=sample.age_builds + 12) for sample in grown], PRIOR, "1.0")
    assert old.confidence < learn(grown, PRIOR, "1.0").confidence
    assert 1500 < old.footprint.peak_bytes(8) / MIB < 2300


@pytest.mark.parametrize("builds", [1, 3, 10])
def test_confidence_is_what_its_definition_says(builds: int) -> None:
    """Evidence over evidence plus one: 0.5 after one run of the newest build."""
    samples = [run(1000)] * builds
    assert learn(samples, PRIOR, "1.0").confidence == pytest.approx(builds / (builds + 1))
    assert learn(samples, PRIOR, "2.0").confidence == pytest.approx(builds / 4 / (builds / 4 + 1))


def test_new_major_version_widens() -> None:
    """A new major version is given more room, a new minor one hardly any; an unknown one changes nothing."""
    samples = history(1000, 1010, 990)
    same, minor, major = (peak_mib(samples, version=version) for version in ("1.0", "1.1", "2.0"))
    assert same < minor < 1.05 * same
    assert major > 1.15 * same
    assert peak_mib(samples, version="") == same
    assert learn(samples, PRIOR, "2.0").is_new_version
    assert not learn(samples, PRIOR, "1.9").is_new_version


def test_first_runs_of_a_new_version_take_over() -> None:
    """Once the new version was built, what the old one took fades sooner than by age."""
    old, new = [run(2000, age=age) for age in range(3, 8)], [run(1000, age=age, version="2.0") for age in range(3)]
    fading = peak_mib([*old, *new], version="2.0")
    assert fading < peak_mib([*old, *(replace(s, record=replace(s.record, version="1.0")) for s in new)], version="1.0")


def test_line_through_several_job_counts() -> None:
    """From runs at several job counts, the others are predicted, below, between and above them."""
    samples = [run(200 + 300 * jobs, jobs, age) for age, jobs in enumerate((8, 2, 4, 8, 2))]
    assert learn(samples, PRIOR, "1.0").job_from == "runs"
    for jobs in JOBS:
        assert 200 + 300 * jobs < peak_mib(samples, jobs) < 1.35 * (200 + 300 * jobs)


@pytest.mark.parametrize("prior", [PRIOR, NOTHING, Footprint(64 * MIB, 1168 * MIB, 2336 * MIB, "known")])
def test_prior_does_not_hide_what_runs_tell_of_jobs(prior: Footprint) -> None:
    """Also where the prior knows of no growth with jobs, runs at several job counts show it."""
    samples = [run(200 + 300 * jobs, jobs, age) for age, jobs in enumerate((8, 2, 4, 8, 2, 4))]
    assert 200 + 300 * 16 < peak_mib(samples, 16, prior) < 1.5 * (200 + 300 * 16)


def test_one_job_count_extrapolates_by_the_processes_seen() -> None:
    """Where all runs had the same jobs, the compilers' size tells what others would take."""
    samples = [run(200 + 8 * 300, 8, age, job_mib=300, serial_mib=500) for age in range(3)]
    learned = learn(samples, PRIOR, "1.0")
    assert learned.job_from == "processes"
    for jobs in (2, 4, 8, 16):
        assert 200 + 300 * jobs < learned.footprint.peak_bytes(jobs) / MIB < 1.45 * (200 + 300 * jobs)


def test_one_job_count_extrapolates_by_the_prior_scaled() -> None:
    """Where nothing was seen of processes, the prior's growth is moved to the level seen."""
    for level in (0.25, 4.0):
        samples = [run(level * (64 + 4 * 512), 4, age) for age in range(3)]
        learned = learn(samples, PRIOR, "1.0")
        assert learned.job_from == "prior"
        assert learned.footprint.peak_bytes(16) / MIB > level * (64 + 16 * 512)


def test_runs_with_one_job_say_what_more_would_take() -> None:
    """A run with one job is all serial; with eight, the prior's growth at its level is expected."""
    samples = [run(500, 1, age, serial_mib=500) for age in range(3)]
    assert 500 < peak_mib(samples, 1) < 700
    assert peak_mib(samples, 8) > 8 * 400


def test_serial_peak_is_kept_for_all_jobs() -> None:
    """A link that no -j lowers is predicted for few jobs as for many, until the jobs take more."""
    samples = [run(4000, 4, age, job_mib=400, serial_mib=4000) for age in range(3)]
    for jobs in (1, 2, 4):
        assert 4000 < peak_mib(samples, jobs) < 5000
    assert peak_mib(samples, 16) > 16 * 400


def test_line_starts_at_or_below_a_serial_run() -> None:
    """What jobs add is at least what they added to a run whose serial part was its peak."""
    samples = [run(4000, 4, serial_mib=4000), run(8000, 16, serial_mib=4000)]
    low = Footprint(GIB, 10 * MIB, 0, "known")
    assert peak_mib(samples, 32, low) > 8000 + 16 * (8000 - 4000) / 12


def test_serial_peak_is_that_of_one_job_where_it_was_seen() -> None:
    """With more jobs less of the task is ever alone, so runs with one job know the serial peak best."""
    samples = [run(1000, 1, serial_mib=1000), run(3000, 8, serial_mib=300), run(3000, 8, serial_mib=300)]
    assert peak_mib(samples, 1) > 1000


def test_large_processes_do_not_hide_a_serial_peak() -> None:
    """Processes that were large one after another, not together, take nothing from the serial peak."""
    assert peak_mib([run(4000, 4, job_mib=2000, serial_mib=4000)], 1) > 4000


def test_some_base_is_kept() -> None:
    """Where processes alone explain the whole peak, few jobs still take a little more than their processes."""
    learned = learn([run(2400, 8, job_mib=300)], PRIOR, "1.0")
    assert learned.footprint.base_bytes >= PRIOR.base_bytes


def test_a_run_long_past_is_still_believed() -> None:
    """A task nobody built for long is less certain, and not thought to be another."""
    assert 1000 < peak_mib([run(1000, age=500)]) < 1500


def test_largest_process_is_a_serial_part() -> None:
    """Where only the largest process is known, no job count goes below it."""
    (sample,) = history(4000)
    sample = replace(sample, record=replace(sample.record, largest_process_bytes=3000 * MIB))
    assert peak_mib([sample], 1) > 3000


@pytest.mark.parametrize("seen", [4000, 100, 0])
def test_a_memory_kill_raises(seen: int) -> None:
    """After a kill a task is given a fifth and 100 MiB more than what it was seen with."""
    for samples in ([], history(seen / 2, seen / 2)):
        killed = run(seen, outcome=Outcome.MEMORY_KILL)
        most = seen
        least = max(most * KILL_RATIO, most + KILL_LEAST_BYTES / MIB)
        for prior in (PRIOR, NOTHING):
            learned = learn([*samples, killed], prior, "1.0")
            assert learned.footprint.peak_bytes(8) / MIB >= least - 1e-6
            assert learned.bounds == 1
            assert learned.footprint.origin == ("history" if samples or learned.raised > 1 else prior.origin)


def test_fewer_jobs_help_after_a_kill() -> None:
    """The raise leaves a way out: the task fits with fewer jobs where it did not with many."""
    samples = [*history(2000, 2000), run(3000, outcome=Outcome.MEMORY_KILL)]
    assert peak_mib(samples, 8) >= 3600
    assert peak_mib(samples, 2) < peak_mib(samples, 8) / 2


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.FAILED])
def test_what_an_undone_run_took_is_a_lower_bound(outcome: Outcome) -> None:
    """A throttled or failed run that took more than predicted raises; one that took less says nothing."""
    known = history(1000, 1000, 1000)
    assert peak_mib([*known, run(2000, outcome=outcome)]) > 2000
    assert peak_mib([*known, run(100, outcome=outcome)]) == peak_mib(known)
    assert peak_mib([run(10, outcome=outcome)]) == PRIOR.peak_bytes(8) / MIB


def test_a_kill_long_past_is_forgotten_where_later_runs_ended_well() -> None:
    """Two half-lives after a kill, runs with as many jobs that ended well since speak for themselves."""
    old = int(BOUND_BUILDS)
    killed = run(5000, 8, old, Outcome.MEMORY_KILL)
    assert peak_mib([*history(1000, 1000), replace(killed, age_builds=old - 1)]) > 5000
    assert peak_mib([*history(1000, 1000), killed]) == peak_mib(history(1000, 1000))
    assert peak_mib([*history(300, 300, jobs=2), killed]) > 5000
    assert peak_mib([run(1000, 8, old), killed]) > 5000
    assert peak_mib([killed]) > 5000


@given(st.sampled_from(sorted(CLASSES)), st.integers(0, 1 << 32), st.integers(1, 8))
def test_few_runs_are_covered(name: str, seed: int, builds: int) -> None:
    """Of few runs of one version and age, which all weigh alike, none is above the prediction for its jobs."""
    (series,) = generate(name, 1, builds, seed)
    well = [replace(run.record, version="1.0") for run in series.runs if run.record.outcome is Outcome.OK]
    assume(well)
    footprint = learn([Sample(record, 0) for record in well], series.prior, "1.0").footprint
    assert all(footprint.peak_bytes(record.jobs) >= record.peak_bytes for record in well)


FEW_UNITS = [run(1100, 2, 2), run(2100, 4, 1), run(2100, 8, 0)]  # four units of 500 MiB


def most_mib(samples: list[Sample], prior: Footprint = PRIOR, version: str = "1.0") -> float | None:
    """The most that a task takes however many jobs it has, in MiB; None where peaks grow with the jobs."""
    most_bytes = learn(samples, prior, version).footprint.most_bytes
    return None if most_bytes is None else most_bytes / MIB


def test_more_jobs_that_took_no_more_tell_the_most() -> None:
    """A recipe of fewer units than jobs is given what it took, whatever the job count; below it, what fits the line."""
    most = most_mib(FEW_UNITS)
    assert most is not None
    assert 2100 < most < 2600
    assert peak_mib(FEW_UNITS, 64) == most
    assert 1100 < peak_mib(FEW_UNITS, 2) < 1400
    assert 1600 < peak_mib(FEW_UNITS, 3) < 2000


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (run(4100, 8), "peaks grew as they should"),
        (run(3000, 8), "peaks grew, if less than they should"),
        (run(2100, 5), "that is hardly more jobs"),
        (run(2100, 8, cpu_s=30), "less was done"),
        (run(2100, 8, cpu_s=0), "nobody knows how much was done"),
        (run(2100, 8, version="2.0"), "another major version"),
        (run(2100, 8, outcome=Outcome.THROTTLED), "it was throttled"),
        (run(2100, 8, outcome=Outcome.MEMORY_KILL), "it was killed"),
        (run(2100, 8, outcome=Outcome.FAILED), "it failed"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_tells_no_most(last: Sample, why: str) -> None:
    """Runs with more jobs tell no most where they took more, or might have."""
    assert most_mib([*FEW_UNITS[:2], last]) is None, why


def test_a_giant_that_meets_one_small_job_tells_the_most() -> None:
    """Where one giant is the peak of many jobs, it is not taken for the size of each, though it once met another."""
    met = run(637, 2, 1, job_mib=490, serial_mib=320)
    samples = [run(588, 1, 2, serial_mib=588), met, run(589, 4, 0, job_mib=206, serial_mib=589)]
    assert 637 < peak_mib(samples, 64) < 900


def test_a_job_must_be_known_to_tell_the_most() -> None:
    """Two job counts with one peak may as well be a task whose jobs take nothing, unless a job's size was seen."""
    assert most_mib([run(2100, 4, 1), run(2100, 8, 0)]) is None
    assert most_mib([run(2100, 4, 1, job_mib=500), run(2100, 8, 0)]) is not None
    assert most_mib([run(2100, 4, 1, job_mib=20), run(2100, 8, 0)]) is None


def test_lighter_builds_do_not_hide_that_peaks_grow() -> None:
    """Where one build took more with more jobs, others that took less say nothing of the most."""
    assert most_mib([*FEW_UNITS[:2], run(4100, 8, 1), run(2100, 8, 0), run(2100, 8, 0)]) is None


def test_a_new_major_version_has_no_most() -> None:
    """It may have more units; its own runs tell."""
    assert most_mib(FEW_UNITS, version="2.0") is None
    ours = [replace(s, record=replace(s.record, version="2.0")) for s in FEW_UNITS]
    assert most_mib([*FEW_UNITS, *ours], version="2.0") is not None


def test_a_kill_raises_the_most() -> None:
    """What was thought to be the most is none; where the line covers the kill, few jobs take what they did."""
    killed = run(2500, 8, outcome=Outcome.MEMORY_KILL)
    raised = learn([*FEW_UNITS, killed], PRIOR, "1.0")
    assert raised.footprint.peak_bytes(8) >= 3000 * MIB
    assert raised.footprint.peak_bytes(2) == learn(FEW_UNITS, PRIOR, "1.0").footprint.peak_bytes(2)
    assert raised.raised > 1
    worse = learn([*FEW_UNITS, run(9000, 8, outcome=Outcome.MEMORY_KILL)], PRIOR, "1.0").footprint
    assert worse.peak_bytes(8) >= 10800 * MIB
    assert worse.peak_bytes(2) > raised.footprint.peak_bytes(2)


@given(st.integers(0, 1 << 32), st.integers(2, 10), st.sampled_from(["few", "bimodal", "noisy"]))
def test_the_most_is_above_nearly_all_runs_by_weight(seed: int, builds: int, name: str) -> None:
    """Of the weight of the runs that ended well no more than 5 % took more than is predicted for their jobs."""
    (series,) = generate(name, 1, builds, seed)
    samples = [Sample(run.record, builds - 1 - age) for age, run in enumerate(series.runs)]
    footprint = learn(samples, series.prior, "").footprint
    well = [sample for sample in samples if sample.record.outcome is Outcome.OK]
    weights = [
        (0.5 ** (s.age_builds / HALF_LIFE_BUILDS), footprint.peak_bytes(s.record.jobs) < s.record.peak_bytes)
        for s in well
    ]
    assert sum(weight for weight, is_above in weights if is_above) <= 0.05 * sum(weight for weight, _ in weights) + 1e-9


def test_a_run_that_did_nothing_says_nothing_of_peaks() -> None:
    """A compile that is forced where all is built already takes no CPU time, and moves no prediction."""
    idle = run(47, jobs=8, cpu_s=0.2)
    for jobs in JOBS:
        built = [replace(sample, age_builds=1) for sample in (run(1600, 8, job_mib=190), run(420, 2, job_mib=190))]
        known = peak_mib(built, jobs)
        assert known == pytest.approx(peak_mib([idle, *built], jobs), rel=0.05)


def test_a_recipe_whose_work_shrank_in_a_new_release_is_believed() -> None:
    """Only runs of the version that is asked for say what work there is."""
    before, now = run(1600, age=1, version="1.0", cpu_s=600.0), run(100, version="2.0", cpu_s=6.0)
    assert learn([before, now], PRIOR, "2.0").samples == 2


def test_an_install_that_was_missed_by_all_looks_is_not_its_largest_process_many_times() -> None:
    """Older versions kept BitBake's own child times the number of jobs."""
    missed = run(8 * 47)
    record = replace(missed.record, task="do_install", largest_process_bytes=47 * MIB, wall_s=0.1, cpu_s=0.1)
    light = Footprint(64 * MIB, 0, 0, "a light task")
    assert learn([replace(missed, record=record)], light, "1.0").footprint.peak_bytes(8) < 80 * MIB
    seen = replace(record, wall_s=10.0)
    assert learn([replace(missed, record=seen)], light, "1.0").footprint.peak_bytes(8) > 8 * 47 * MIB
