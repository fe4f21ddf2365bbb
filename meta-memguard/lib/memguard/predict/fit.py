# SPDX-License-Identifier: MIT
"""What past runs of a task say about its next one: records and a prior footprint -> a footprint with its evidence.

Runs in: everywhere; pure.
Covers: the fit over job counts, its margin, and what killed, throttled and failed runs add to it.
Does not cover: where records are kept (record/history), and which prior a task has (footprints).
See also: docs/prediction.md, which holds this method against others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import NamedTuple

from memguard.model import HISTORY_ORIGIN, Footprint, Outcome, Record, Sample
from memguard.units import MIB

# "scripts/bench predict" below: chosen on generated recipes with seeds from 101 on, which docs/prediction.md reports
# nothing of, and without the class "fleet".

# A run counts half after this number of builds. Builds, not days: what nobody built for a month has not changed.
# evidence: scripts/bench predict
HALF_LIFE_BUILDS = 6.0
WEIGHTS = tuple(0.5 ** (age / HALF_LIFE_BUILDS) for age in range(121))  # the last one is for all that are older
# A run of another major version counts this much of one of the version asked for.
# evidence: scripts/bench predict
OTHER_MAJOR_WEIGHT = 0.25
# A task whose runs are all so old that they weigh next to nothing is as uncertain as with this much of a run.
# evidence: scripts/bench predict
LEAST_EVIDENCE = 0.5
# What peaks of one task spread by before any spread is seen, and how many runs that belief is worth.
# evidence: scripts/bench predict; docs/prediction.md, "Noisy", has what 0.12 would change
USUAL_SPREAD = 0.08
USUAL_SPREAD_RUNS = 3.0
# What joins the spread where no run of this major version, or none of this very version, is there.
# evidence: scripts/bench predict; largest processes of one task in two releases differ by a spread of 0.26, half of
# them by less than 0.07
NEW_MAJOR_SPREAD = 0.2
NEW_VERSION_SPREAD = 0.02
# The spreads that lie between the fit and the prediction: beyond 2.7 lie 0.4 % of a normal distribution.
# evidence: scripts/bench predict
SPREADS = 2.7
# The share of the runs, by weight, above all of which the prediction lies.
# evidence: scripts/bench predict
QUANTILE = 0.95
# How far the size of a job may be off: seen in processes, or taken from the prior and moved to the peaks seen.
# evidence: scripts/bench predict
SEEN_JOB_SPREAD = 0.2
PRIOR_JOB_SPREAD = 0.4
# At the peak a job takes more than the median process that was recorded.
# evidence: scripts/bench predict
PEAK_TO_MEDIAN = 1.05
# Where base and jobs cannot be told apart by the peaks, base is at most this share of the peak, and a job at least this
# share of what each has of it.
# evidence: scripts/bench predict
BASE_SHARE = 0.2
JOB_SHARE = 0.5
# A run whose serial part took this share of its peak says of its jobs only that they took no more.
# evidence: scripts/bench predict
SERIAL_SHARE = 0.9
# More jobs are taken to need no more memory, where four things hold: runs had KNEE_STEP times as many jobs or more; by
# the size of a job that should have added KNEE_LEAST_GROWTH of the peak or more; it added KNEE_GROWN_SHARE of that or
# less; and no less work was done, since a build that has next to nothing to do takes less memory, too. Work is CPU
# time, which varies by a quarter with what else the machine does.
# evidence: scripts/bench predict
KNEE_STEP = 1.5
KNEE_LEAST_GROWTH = 0.35
KNEE_GROWN_SHARE = 0.25
KNEE_WORK_SHARE = 0.7
# Runs that count less than this share of the one that counts most say nothing of it.
# evidence: scripts/bench predict
KNEE_LEAST_WEIGHT = 0.25
# A run with less than this share of the CPU time of others shows nothing of peaks: what it should do was done already.
# evidence: a forced compile of a built recipe takes 0.2 s; CPU time of the same work varies by a quarter
IDLE_WORK_SHARE = 0.25
# What a run that was killed for memory would have taken, at least.
# evidence: the Kubernetes vertical autoscaler's OOMBumpUpRatio and OOMMinBumpUp (its recommender)
KILL_RATIO = 1.2
KILL_LEAST_BYTES = 100 * MIB
# A run that did not end well is forgotten at this age, if one with as many jobs has ended well since.
# evidence: scripts/bench predict
BOUND_BUILDS = 2 * HALF_LIFE_BUILDS
# What the Python process of a task takes, which a run too short to be seen does not show.
# evidence: 7 to 15 MiB were measured
LEAST_BYTES = 16 * MIB
# No run that is longer than this was missed by all looks. evidence: three looks (MEASURE_S)
MISSED_S = 1.0
# Numbers beyond these are cut, so that no arithmetic on them fails. evidence: no machine has as much
MOST_BYTES = 1 << 60
MOST_JOBS = 1 << 16


@dataclass(frozen=True)
class Learned:
    """A footprint and what it rests on.

    footprint:      its origin is "history" where samples made it, else it is the prior itself.
    samples:        runs that ended well; the fit is theirs.
    bounds:         runs that did not (killed, throttled, failed), or of which only the largest process is known
                    (buildstats); they can only raise.
    confidence:     0 to 1: evidence / (evidence + 1), where evidence is the number of runs that ended well, each
                    counted by its age and version. The prior alone is 0, one run of the newest build 0.5, three 0.75.
    jobs:           the job counts of the runs that ended well, fewest first.
    spread:         how far runs lie from the fit, as a share; mixed with the usual spread while runs are few.
    margin:         what was added to the fit, as a share, before any raise.
    job_from:       where the size of one job is from: "runs" (peaks at several job counts), "processes", "prior".
    raised:         what runs that did not end well multiplied the prediction for their jobs by; 1.0 for nothing.
    is_new_version: no run that ended well was of this major version.
    """

    footprint: Footprint
    samples: int = 0
    bounds: int = 0
    confidence: float = 0.0
    jobs: tuple[int, ...] = ()
    spread: float = USUAL_SPREAD
    margin: float = 0.0
    job_from: str = "prior"
    raised: float = 1.0
    is_new_version: bool = False


class _Point(NamedTuple):
    """A run that ended well, as the fit sees it; serial and job are 0 where they were not seen. In bytes.

    work: CPU seconds, 0 where they were not seen.
    """

    jobs: int
    peak: int
    serial: int
    job: int
    weight: float
    is_serial: bool
    is_other_major: bool
    work: float


class _Fit(NamedTuple):
    """The middle of what runs took, without any margin. In bytes; most is None where peaks grew with the jobs."""

    base: float
    per_job: float
    serial: float
    job_from: str
    most: float | None = None

    def peak(self, jobs: int) -> float:
        peak = self.base + self.per_job * jobs
        return max(peak if self.most is None else min(peak, self.most), self.serial)


def learn(samples: Sequence[Sample], prior: Footprint, version: str) -> Learned:
    """The footprint of a task of `version` ("" where unknown) of which `samples` were seen and `prior` was thought.

    The order of the samples does not matter, their ages do.
    """
    well = _without_idle([sample for sample in samples if _is_whole(sample.record)], version)
    ill = [sample for sample in samples if not _is_whole(sample.record)]
    learned = _learn_from(well, prior, version) if well else Learned(prior)
    return _raise(learned, ill, well) if ill else learned


def _is_whole(record: Record) -> bool:
    """Whether a run shows what the task takes: it ended well, with known jobs, measured or too short for that."""
    is_known = record.peak_bytes is not None or _was_missed(record)
    return record.outcome is Outcome.OK and is_known and record.jobs is not None


def _without_idle(samples: list[Sample], version: str) -> list[Sample]:
    """`samples` without those that had next to nothing to do, beside others of this major version that had."""
    shares = _shares({sample.record.version for sample in samples}, version)
    works = [sample.record.cpu_s for sample in samples if shares[sample.record.version] == 1]
    least_s = IDLE_WORK_SHARE * max(works, default=0.0)
    return [sample for sample in samples if not 0 < sample.record.cpu_s < least_s]


def _learn_from(samples: Sequence[Sample], prior: Footprint, version: str) -> Learned:
    """What runs that ended well say: the fit times the larger of its margin and what its highest runs need."""
    shares = _shares({sample.record.version for sample in samples}, version)
    is_new_major = max(shares.values()) < 1
    runs = sorted([_weigh(sample, shares[sample.record.version]) for sample in samples])
    evidence = sum([run.weight for run in runs])
    fit = _fit_knee(runs, prior)

    ratios = [(run.peak / fit.peak(run.jobs), run.weight) for run in runs]
    squares = sum([weight * (ratio - 1) ** 2 for ratio, weight in ratios])
    variance = (USUAL_SPREAD_RUNS * USUAL_SPREAD**2 + squares) / (USUAL_SPREAD_RUNS + evidence)
    news = NEW_MAJOR_SPREAD if is_new_major else NEW_VERSION_SPREAD if version and version not in shares else 0.0
    doubt = 1 + 1 / max(evidence, LEAST_EVIDENCE)  # of one more run, and of the middle of those there are
    margin = SPREADS * sqrt(variance * doubt + news**2)
    usual = SPREADS * sqrt(USUAL_SPREAD**2 * doubt + news**2)
    # A task that takes much in some builds and little in others spreads widely, but not beyond its highest runs.
    top = _quantile(ratios, QUANTILE)
    factor = min(max(1 + margin, top * (1 + usual / 2)), top * (1 + usual))
    return Learned(
        Footprint(
            ceil(fit.base * factor),
            ceil(fit.per_job * factor),
            max(ceil(fit.serial * factor), LEAST_BYTES),
            HISTORY_ORIGIN,
            None if fit.most is None else ceil(fit.most * factor),
            factor - 1,
        ),
        samples=len(samples),
        confidence=evidence / (evidence + 1),
        jobs=tuple(sorted({run.jobs for run in runs})),
        spread=sqrt(variance),
        margin=factor - 1,
        job_from=fit.job_from,
        is_new_version=is_new_major,
    )


def _shares(versions: Iterable[str], version: str) -> dict[str, float]:
    """How much a run of each of `versions` counts for `version`: 1.0 where the major one is the same or not known."""
    major = _major(version)
    return {seen: 1.0 if not version or _major(seen) == major else OTHER_MAJOR_WEIGHT for seen in versions}


def _weigh(sample: Sample, share: float) -> _Point:
    """`sample` as the fit sees it; its version makes it count `share`."""
    record = sample.record
    peak = record.largest_process_bytes if _was_missed(record) else record.peak_bytes or 0
    serial, job = record.serial_bytes or 0, record.per_job_bytes or 0
    if record.largest_process_bytes > serial:  # one process alone is serial, too, and all that imported runs have
        serial = record.largest_process_bytes
    if not 0 < peak <= MOST_BYTES:
        peak = _cut(peak) or 1
    if not 0 <= serial <= peak:
        serial = peak if serial > 0 else 0
    weight = WEIGHTS[min(max(0, sample.age_builds), len(WEIGHTS) - 1)] * share
    is_serial = serial >= SERIAL_SHARE * peak
    return _Point(_jobs(record.jobs), peak, serial, _cut(job) if job else 0, weight, is_serial, share < 1, record.cpu_s)


def _was_missed(record: Record) -> bool:
    """Whether a run was too short to be measured; older versions kept its largest process times its jobs."""
    is_short = record.serial_bytes is None and record.per_job_bytes is None and record.wall_s < MISSED_S
    return is_short and record.peak_bytes in (None, record.largest_process_bytes * (record.jobs or 1))


def _fit_knee(runs: Sequence[_Point], prior: Footprint) -> _Fit:
    """The fit; where more jobs took no more, a line through the runs up to there and a most for the others."""
    if runs[0].jobs == runs[-1].jobs:
        return _fit(runs, prior)
    least_weight = KNEE_LEAST_WEIGHT * max([run.weight for run in runs])
    # Of each job count the largest run: lighter ones had less to do, and do not show what many jobs would have taken.
    largest: dict[int, _Point] = {}
    parallel = set()
    for run in runs:
        if run.weight > least_weight and not run.is_other_major:
            largest[run.jobs] = run  # they are sorted
            if not run.is_serial:
                parallel.add(run.jobs)
    last = max(largest, default=0)
    for jobs in largest:
        if jobs * KNEE_STEP > last:
            break
        knee, beyond = largest[jobs], [run for count, run in largest.items() if count > jobs]
        if jobs not in parallel or not 0 < KNEE_WORK_SHARE * knee.work <= largest[last].work:
            continue
        fit = _fit([run for run in runs if run.jobs <= jobs or run.is_serial], prior)
        growth = fit.per_job * (last - jobs)
        has_stopped = max([run.peak for run in beyond]) - knee.peak <= KNEE_GROWN_SHARE * growth
        if has_stopped and fit.job_from != "prior" and growth >= KNEE_LEAST_GROWTH * knee.peak:
            most = _mean([(run.peak, run.weight) for run in runs if run.jobs > jobs])
            most = max(most, fit.base + fit.per_job * jobs)  # fewer jobs never take more
            return fit._replace(serial=_serial_part(runs), most=most)
    return _fit(runs, prior)


def _fit(runs: Sequence[_Point], prior: Footprint) -> _Fit:
    """Base, per job and serial through the middle of the runs.

    A ridge regression of peak over jobs, drawn towards the size of one job that was seen in processes, else to the
    prior's moved to the peaks seen. Runs whose serial part was their peak take no part in it; they bound it.
    """
    parallel = [run for run in runs if not run.is_serial]
    serial = _serial_part(runs)
    seen = _mean([(run.job, run.weight) for run in runs if run.job])
    if seen:
        job, job_spread, job_from = seen * PEAK_TO_MEDIAN, SEEN_JOB_SPREAD, "processes"
    else:
        level = _mean([(run.peak / (prior.peak_bytes(run.jobs) or 1), run.weight) for run in parallel or runs])
        job, job_spread, job_from = prior.per_job_bytes * level, PRIOR_JOB_SPREAD, "prior"
    if not parallel:
        base = min(prior.base_bytes, BASE_SHARE * serial)
        most = min([(run.peak - base) / run.jobs for run in runs])
        return _Fit(base, max(0.0, min(job, most)), serial, job_from)

    # Errors are alike as shares of the peak, so a run counts by one over its expected peak squared. Not over its own:
    # one run that had next to nothing to do would then outweigh all others.
    usual_base, usual_job = prior.base_bytes or 1, prior.per_job_bytes
    weights = [run.weight / (usual_base + usual_job * run.jobs) ** 2 for run in parallel]
    total = sum(weights)
    jobs = sum([weight * run.jobs for weight, run in zip(weights, parallel)]) / total
    peak = sum([weight * run.peak for weight, run in zip(weights, parallel)]) / total
    across = along = 0.0
    for weight, run in zip(weights, parallel):
        step = weight * (run.jobs - jobs)
        across += step * (run.jobs - jobs)
        along += step * (run.peak - peak)
    scale = total / sum([run.weight for run in parallel]) * peak**2
    ridge = scale * (USUAL_SPREAD / (job_spread * max(job, JOB_SHARE * peak / jobs))) ** 2
    if across > ridge:
        job_from = "runs"
    per_job = max(0.0, (along + ridge * job) / (across + ridge))
    steps = [(peak - run.peak) / (jobs - run.jobs) for run in runs if run.is_serial and run.jobs < jobs - 0.5]
    per_job = max([per_job, *steps])
    base = 0.0 if job_from == "runs" else min(prior.base_bytes, BASE_SHARE * peak)
    per_job = min(per_job, (peak - base) / jobs)
    return _Fit(max(0.0, peak - per_job * jobs), per_job, serial, job_from)


def _serial_part(runs: Sequence[_Point]) -> float:
    """The mean serial part; of runs with one job where there are any, since among many jobs less ever runs alone."""
    return _mean([(run.serial, run.weight) for run in runs if run.serial and (run.jobs == 1 or runs[0].jobs > 1)])


def _raise(learned: Learned, ill: Sequence[Sample], well: Sequence[Sample]) -> Learned:
    """`learned`, made to cover what runs that did not end well would have taken at least; never less than before."""
    newest: dict[int, int] = {}
    for sample in well:
        jobs = _jobs(sample.record.jobs)
        newest[jobs] = min(newest.get(jobs, sample.age_builds), sample.age_builds)
    needed = []
    for sample in ill:
        age, these = sample.age_builds, _jobs(sample.record.jobs)
        if age >= BOUND_BUILDS and any(other < age and count >= these for count, other in newest.items()):
            continue
        needed.append((these, _least(sample)))
    footprint = learned.footprint
    raised = max([1.0, *[needs / max(1, footprint.peak_bytes(these)) for these, needs in needed]])
    if raised == 1:
        return replace(learned, bounds=len(ill))
    most_bytes = footprint.most_bytes
    if most_bytes is not None:
        # The most was too low. The line may be right all the same.
        most_bytes = max([most_bytes, *[ceil(needs) for _, needs in needed]])
        footprint = replace(footprint, most_bytes=most_bytes)
    by, jobs, least = max([(needs / max(1, footprint.peak_bytes(these)), these, needs) for these, needs in needed])
    by = max(1.0, by)
    footprint = Footprint(
        ceil(footprint.base_bytes * by),
        ceil(footprint.per_job_bytes * by),
        ceil(footprint.serial_bytes * by),
        HISTORY_ORIGIN,
        None if most_bytes is None else ceil(most_bytes * by),
    )
    if footprint.peak_bytes(jobs) < least:  # of a prior of nothing there is nothing to multiply
        footprint = replace(footprint, serial_bytes=ceil(least))
    return replace(learned, footprint=footprint, bounds=len(ill), raised=raised)


def _least(sample: Sample) -> float:
    """Bytes that a run would have taken at least, had it ended well and been measured whole."""
    record = sample.record
    if record.peak_bytes is None:
        return float(_cut(record.largest_process_bytes))
    seen = _cut(record.peak_bytes)
    if record.outcome is not Outcome.MEMORY_KILL:  # earlier versions called throttled what was stopped for a moment
        return seen * (1 + SPREADS * USUAL_SPREAD * (record.outcome is not Outcome.THROTTLED))
    return max(seen * KILL_RATIO, seen + KILL_LEAST_BYTES)


def _quantile(values: Sequence[tuple[float, float]], share: float) -> float:
    """The smallest of the (value, weight) pairs' values that no less than `share` of the weight does not exceed."""
    ordered = sorted(values)
    left = share * sum([weight for _, weight in ordered])
    for value, weight in ordered:
        left -= weight
        if left <= 0:
            return value
    return ordered[-1][0]


def _mean(values: Sequence[tuple[float, float]]) -> float:
    """The mean of (value, weight) pairs, 0 of none."""
    total = weights = 0.0
    for value, weight in values:
        total += value * weight
        weights += weight
    return total / weights if weights else 0.0


def _major(version: str) -> str:
    return version.partition(".")[0]


def _jobs(jobs: int | None) -> int:
    jobs = jobs or 1
    return jobs if 0 < jobs <= MOST_JOBS else min(max(1, jobs), MOST_JOBS)


def _cut(size_bytes: int | None) -> int:
    size_bytes = size_bytes or 0
    return size_bytes if 0 <= size_bytes <= MOST_BYTES else min(max(0, size_bytes), MOST_BYTES)
