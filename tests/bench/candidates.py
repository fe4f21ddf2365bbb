# SPDX-License-Identifier: MIT
"""Other ways to predict memory, which `bench predict` holds against the one that the layer uses.

A method is given the past samples, the prior and the version to be built, and returns a function from jobs to bytes,
or None while it has nothing to go by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev
from typing import Optional

from memguard.model import Footprint, Outcome, Sample
from memguard.predict.fit import learn
from memguard.units import GIB

Prediction = Callable[[int], float]
Method = Callable[[Sequence[Sample], Footprint, str], Optional[Prediction]]
HALF_LIFE_BUILDS = 5.0


def memguard(samples: Sequence[Sample], prior: Footprint, version: str) -> Prediction:
    """What the layer does."""
    return learn(samples, prior, version).footprint.peak_bytes


def percentile(samples: Sequence[Sample], prior: Footprint, version: str) -> Prediction:
    """The Kubernetes vertical autoscaler's rule on the prior's shape: decaying P90 of peak / prior, plus 15 %.

    A memory kill counts as max(1.2 x, + 100 MB), as there.
    """
    if not samples:
        return prior.peak_bytes
    ratio = 1.15 * _p90([(_bumped(s) / _peak(prior, s), 0.5 ** (s.age_builds / HALF_LIFE_BUILDS)) for s in samples])
    return lambda jobs: ratio * prior.peak_bytes(jobs)


def first_allocation(samples: Sequence[Sample], prior: Footprint, version: str) -> Prediction:
    """TaskVine's first allocation for throughput, on the prior's shape, over what was seen so far.

    Chooses the a that maximises [(m/a) P(r <= a) + P(r > a)] / [mean(t) + sum over r > a of t(r) p(r)], where m is the
    most ever seen (Tovar et al., "A Job Sizing Strategy for High-Throughput Scientific Workflows").
    """
    if not samples:
        return prior.peak_bytes
    ratios = sorted((_bumped(s) / _peak(prior, s), max(1e-3, s.record.wall_s)) for s in samples)
    most, mean_time, count = ratios[-1][0], fmean(time for _, time in ratios), len(ratios)
    best, best_rate = most, 0.0
    for index, (ratio, _) in enumerate(ratios, 1):
        above = ratios[index:]
        rate = (most / max(ratio, 1e-9)) * (index / count) + len(above) / count
        rate /= mean_time + sum(time for _, time in above) / count
        if rate > best_rate:
            best, best_rate = ratio, rate
    return lambda jobs: best * prior.peak_bytes(jobs)


def regression(samples: Sequence[Sample], prior: Footprint, version: str) -> Prediction:
    """Least squares of peak over jobs, plus an offset: the larger of one standard deviation and the largest residual.

    After Witt et al., "Feedback-based resource allocation for batch scheduling of scientific workflows". With one job
    count only, the line goes through zero.
    """
    fine = [s.record for s in samples if s.record.outcome is Outcome.OK]
    if not fine:
        return prior.peak_bytes
    jobs, peaks = fmean(r.jobs for r in fine), fmean(r.peak_bytes for r in fine)
    across = sum((r.jobs - jobs) ** 2 for r in fine)
    along = sum((r.jobs - jobs) * (r.peak_bytes - peaks) for r in fine)
    slope = max(0.0, along / across) if across else peaks / jobs
    base = peaks - slope * jobs
    residuals = [r.peak_bytes - base - slope * r.jobs for r in fine]
    base += max(pstdev(residuals), *residuals, 0.0)
    return lambda jobs: base + slope * jobs


def maxrss_times_jobs(samples: Sequence[Sample], prior: Footprint, version: str) -> Prediction | None:
    """What buildstats knows: the largest process of the newest run, once per job."""
    if not samples:
        return None
    largest = min(samples, key=lambda s: s.age_builds).record.largest_process_bytes
    return lambda jobs: largest * jobs


def p90_per_jobs(samples: Sequence[Sample], prior: Footprint, version: str) -> Prediction | None:
    """P90 + 15 % of the runs with exactly these jobs, else of the nearest job count, scaled by jobs."""
    if not samples:
        return None
    found = defaultdict(list)
    for s in samples:
        found[max(1, s.record.jobs)].append((_bumped(s), 0.5 ** (s.age_builds / HALF_LIFE_BUILDS)))

    def predict(jobs: int) -> float:
        nearest = min(found, key=lambda known: (abs(known - jobs), known))
        return 1.15 * _p90(found[nearest]) * jobs / nearest

    return predict


def constant(samples: Sequence[Sample], prior: Footprint, version: str) -> Prediction:
    """2 GiB per job, whatever the recipe."""
    return lambda jobs: 2 * GIB * jobs


METHODS: dict[str, Method] = {
    "memguard": memguard,
    "percentile + 15 %": percentile,
    "first allocation": first_allocation,
    "regression + offset": regression,
    "maxrss x jobs": maxrss_times_jobs,
    "P90 + 15 % per jobs": p90_per_jobs,
    "2 GiB per job": constant,
}
BASELINES = ("maxrss x jobs", "P90 + 15 % per jobs", "2 GiB per job")


def _p90(values: list[tuple[float, float]]) -> float:
    """The weighted 90th percentile."""
    left = 0.9 * sum(weight for _, weight in values)
    for value, weight in sorted(values):
        left -= weight
        if left <= 1e-9:
            return value
    return max(values)[0]


def _bumped(sample: Sample) -> float:
    peak = sample.record.peak_bytes
    return max(1.2 * peak, peak + 100e6) if sample.record.outcome is Outcome.MEMORY_KILL else peak


def _peak(prior: Footprint, sample: Sample) -> int:
    return max(1, prior.peak_bytes(sample.record.jobs))
