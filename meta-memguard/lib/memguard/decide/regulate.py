# SPDX-License-Identifier: MIT
"""What to do to running tasks as memory changes: give and withdraw tokens, stop, wake and kill single jobs.

Runs in: the sentinel, `memguard run` and every simulation; pure, no clock, no file.
Covers: who gets how many tokens; which job or task is stopped, woken or killed, and when.
Does not cover: which task starts (admit); what jobs will take (job_lives); signals and token pools (reflex).

All of it rests on one forecast: what running jobs, those that follow them, and any that are added are expected to hold
beyond what is used now, at several moments until the longest job ends. In order of severity:

- Tokens are given while the forecast fits into what is left less the reserve. Where it does not, those are withdrawn
  whose next jobs would make it so, from the newest task first. The oldest task gets its tokens first; each task keeps
  its one implicit job. Tokens of all tasks together never exceed the slots.
- Where the running jobs alone would pass the stop mark, or grow so fast that they will before the next look, the
  youngest jobs are stopped, whosever they are: they hold least, and have most still to take. Then whole tasks.
- Where the kill mark is passed and nothing can be stopped, one job is killed: the youngest that holds what is missing.
- What was stopped is woken, the oldest first and before new jobs begin, once what it will take fits again.

Something always goes on: one job is protected, the oldest of all. It is never stopped, its room is kept, and it is
woken first. With all others stopped it finishes and frees what it held; then the next one is protected. So no job holds
memory and stands still for longer than those take that began before it.
It may wait for something that a stopped one has, a lock or an answer: where nothing has gone on for some time, what is
stopped is woken for good, one after the other, whatever memory is left. The worst that follows is a kill.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from math import inf

from memguard.decide.forecast import Budget, Forecast
from memguard.decide.moment import REACTION_S, Act, Action, Job, Moment, Running
from memguard.units import MIB

# While all jobs together are expected to take no more than this share of what is left, more of them run than keep the
# CPUs busy on average: they keep them busy whatever some wait for.
# evidence: on real recipes without a limit three jobs kept two CPUs busy for 92 % of the time, stock's for 95 %
AMPLE_SHARE = 1 / 4
# From one wake to the next of a single job, whose memory the forecast knows; and the most of them at one look.
# evidence: a build of short jobs ends twenty a second; one wake a second cost half of the speed
WAKE_PAUSE_S = 0.02
WAKES_MOST = 8
# From one wake, or kill, to the next where nobody knows what comes of it: memory must be seen to move.
# evidence: the kernel brings a cgroup's sums up to two seconds late, processes say it at once
TASK_PAUSE_S = 1.0
KILL_PAUSE_S = 0.5
# The kill mark of a job that holds this share of what all tasks hold, or more, is lower by its share, but no lower than
# LAST_SHARE of it: none at all would have the kernel kill it, and with it, in a pod, everything.
# evidence: with 1 GiB a compile of 700 MiB was killed four times at 580 to 616 beside configure scripts of 60, and the
# build was lost; at a sixteenth, 4 MiB, the kernel killed one that was alone with 750 eight times in two builds
ALL_SHARE = 0.75
LAST_SHARE = 1 / 8
# But where what runs has crawled for this long the kill mark counts for it, too: all that is left for the code of
# programs is read from the disk again and again, and the kernel does not kill as long as it finds a page to take.
# evidence: a compiler of 1.2 GiB in 1.5 stood at 27 MiB from the limit for nine minutes, with a quarter of a CPU and
# 94,000 pages read anew, until the build was broken off
CRAWL_S = 4.0
# One beside which nothing runs may have as much the next time and no more, so it is given time to get there.
# evidence: with 1 GiB a compiler that needs 1003 to 1011 MiB with BitBake's crawls for the last seconds of eighteen
CRAWL_ALONE_S = 60.0
# From the last sign of life of what runs to the first wake for good, and on to the next. Who waits for a disk or the
# network may show none for some seconds. With the time by which looks are late, and that of a wake, it stays below ten.
# evidence: chosen: no stop lasts ten seconds while nothing else goes on, also where looks come late
STALLED_S = 6.0
# A job that is expected to grow by less than this is as large as it gets.
# evidence: chosen, not measured
GROWN_BYTES = 4 * MIB
# Those that are expected to grow least, or hold least, by no more than this together, are small: to stop them would
# keep next to nothing free. They are stopped after all others, and only if memory runs out before the next look.
# Counted one by one they would be no bound: of sixty-four, each may be small.
# evidence: C compilers of real recipes take 14 to 60 MiB, two or three at once; what makes memory short, over 200
SMALL_BYTES = 48 * MIB
# To kill what holds less than this, and less than this share of the largest job, helps nobody.
# evidence: beside a compiler of 1.1 GiB seven of 3 to 16 MiB were killed, each for a tenth of a second's growth
WORTH_SHARE = 1 / 16

# A job, and the task that it is of.
_Owned = tuple[Running, Job]


def regulate(moment: Moment, forecast: Forecast | None = None) -> list[Action]:
    """What to do now, in this order. Each stop, wake and kill is a change; every pool is given its tokens anew.

    forecast: that of the moment, where it is known already.
    """
    oldest_first = sorted(moment.tasks, key=lambda task: task.place)
    forecast = forecast or Forecast(moment)
    by_age = _by_age(oldest_first)
    stops = _stops(moment, oldest_first, by_age, forecast)
    going = _going(by_age, stops)
    # Where all jobs are stopped none makes memory shorter; the protected one may.
    kills = _kills(moment, by_age, going) if going and not stops else []
    wakes = _wakes(moment, oldest_first, by_age, forecast, going, not stops) if not kills else []
    return [*stops, *kills, *wakes, *_tokens(moment, oldest_first, forecast)]


# -- tokens ------------------------------------------------------------------------------------------------------------


def _tokens(moment: Moment, oldest_first: Sequence[Running], forecast: Forecast) -> list[Action]:
    """What each pool shall have: what is held, less what must be withdrawn, or more where it fits."""
    pools = [task for task in oldest_first if task.held_tokens is not None]
    if not pools:
        return []
    budget = forecast.of_all.copy()
    # The implicit job is followed by another whatever happens; it is taken to be the one that ends last.
    following = {
        task.tid: [forecast.of(task, job) for job in sorted(task.jobs, key=lambda job: -job.left_s)][1:]
        for task in pools
    }
    tokens = {task.tid: min(task.held_tokens or 0, task.most_jobs - 1) for task in pools}
    jobs = sum(1 + tokens[task.tid] if task.tid in tokens else len(task.jobs) for task in oldest_first)
    is_short = not budget.fits(_room(moment, 0))
    for task in reversed(pools):
        last = following.get(task.tid, [])
        while tokens[task.tid] > 0 and not budget.fits(_room(moment, jobs)):
            if jobs <= moment.slots and not (last and budget.is_largest_with(last[-1].following)):
                break  # to end this job's line now would not help
            if last:
                budget.take(last.pop().following)
            tokens[task.tid] -= 1
            jobs -= 1
    if not is_short and not moment.is_pressed:
        _give(moment, budget, forecast, pools, tokens, jobs)
    return [Action(Act.TOKENS, task.tid, tokens=tokens[task.tid], is_short=is_short) for task in pools]


def _room(moment: Moment, jobs: int) -> float:
    """What so many jobs may take together beyond what is used now; -inf where they are too many."""
    room = float(moment.left_bytes - moment.reserve_bytes)
    if jobs <= moment.slots:
        return room
    return min(room, AMPLE_SHARE * room) if jobs <= moment.asked_jobs else -inf


def _give(
    moment: Moment,
    budget: Budget,
    forecast: Forecast,
    pools: Sequence[Running],
    tokens: dict[str, int],
    jobs: int,
) -> None:
    """Give more, the oldest task's first: to those that have used up theirs, and then to others what lay idle.

    As many again as are held, or as jobs have ended: what a task does with tokens is seen at the next look, and what
    its jobs take only as they live. And no more at once than fit whole into what is left now: that others will end is
    not certain, and neither is that the next ones are like the last ones.
    """
    at_once = float(moment.left_bytes - moment.stop_bytes)
    for is_second in (False, True):
        for task in pools:
            has_used_up = not task.idle_tokens
            if has_used_up is is_second:
                continue
            more = max(1 + (task.held_tokens or 0), task.next_job.ended) if has_used_up else task.idle_tokens
            new = forecast.new(task)
            for _ in range(min(more, task.most_jobs - 1 - tokens[task.tid])):
                budget.add(new)
                at_once -= task.next_job.peak_bytes
                if not budget.fits(_room(moment, jobs + 1)) or at_once < 0:
                    budget.take(new)
                    break
                tokens[task.tid] += 1
                jobs += 1


# -- stop, wake, kill --------------------------------------------------------------------------------------------------


def _by_age(tasks: Sequence[Running]) -> list[_Owned]:
    """The jobs of tasks that are not stopped as a whole, the oldest first; of equals those of the oldest task.

    The first of them is protected: it always goes on.
    """
    found = [(task, job) for task in tasks if not task.is_stopped for job in reversed(task.jobs)]
    return sorted(found, key=lambda pair: pair[1].start_ticks)


def _soon_bytes(jobs: Iterable[Job], seconds: float) -> float:
    """What `jobs` take in this time at their present pace, if none of them ends."""
    return sum(job.soon_bytes(seconds) for job in jobs)


def _going(by_age: Sequence[_Owned], stops: Sequence[Action]) -> list[_Owned]:
    """The jobs that run and will not be stopped."""
    stopped = {(action.tid, action.job.pid) for action in stops if action.job}
    return [(task, job) for task, job in by_age if not job.is_stopped and _key(task, job) not in stopped]


def _stops(
    moment: Moment, oldest_first: Sequence[Running], by_age: Sequence[_Owned], forecast: Forecast
) -> list[Action]:
    """Jobs to stop, the youngest first, until what the others take fits.

    It must fit by the forecast, and until the next look also if no job ends and all grow on at their pace.
    """
    protected = by_age[0][1] if by_age else None
    budget = forecast.budget(moment.stop_bytes - moment.kill_bytes)
    for task in oldest_first:
        for job in task.jobs:
            # The protected one's room is kept also where it is stopped still.
            if not job.is_stopped or job is protected:
                budget.add(forecast.of(task, job).own)
    reaction_s = moment.reaction_s
    stopped_bytes = moment.stopped_bytes - (protected.bytes if protected and protected.is_stopped else 0)
    room = moment.left_bytes - moment.stop_bytes + moment.parked_bytes(stopped_bytes)
    soon_bytes = _soon_bytes([job for task in oldest_first for job in task.jobs if not job.is_stopped], reaction_s)
    soon_bytes = max(soon_bytes, moment.fill_bytes_s * reaction_s)
    small = _small(moment, reaction_s)
    found: list[Action] = []
    for task, job in _stoppable(by_age, small, moment.swap_left_bytes - stopped_bytes):
        if soon_bytes <= room and (budget.fits(room) or _key(task, job) in small):
            return found
        found.append(Action(Act.STOP, task.tid, "memory is short", job))
        budget.take(forecast.of(task, job).own)
        soon_bytes = max(0.0, soon_bytes - job.soon_bytes(reaction_s))
        stopped_bytes += job.bytes
        room = moment.left_bytes - moment.stop_bytes + moment.parked_bytes(stopped_bytes)
    if found or soon_bytes <= room:
        return found
    # No job is left to be stopped: whole tasks, but never the oldest.
    for task in reversed(oldest_first[1:]):
        if task.may_stop and not task.is_stopped and not task.jobs and task.current_bytes > SMALL_BYTES:
            return [Action(Act.STOP, task.tid, "memory is short, and no job is left to be stopped")]
    return []


def _stoppable(by_age: Sequence[_Owned], small: Collection[tuple[str, int]], park_bytes: int) -> list[_Owned]:
    """The jobs that may be stopped: the youngest first that still grows, then those that can be parked, the small ones
    after all others.

    park_bytes: what can still go to swap; to stop what has grown up makes room no other way.
    """
    found = [
        (task, job)
        for task, job in reversed(by_age[1:])
        if task.may_stop and job.may_stop and not job.is_stopped
        if _grows(job) or SMALL_BYTES < job.bytes <= park_bytes
    ]
    return sorted(found, key=lambda pair: (_key(*pair) in small, not _grows(pair[1])))


def _grows(job: Job) -> bool:
    """Whether it will take more than it has."""
    return job.need_bytes >= GROWN_BYTES or job.growth_bytes_s > 0


def _small(moment: Moment, reaction_s: float) -> set[tuple[str, int]]:
    """The jobs, stopped or not, that will take next to nothing more together until they can be stopped again.

    No more than lies between the marks: what they take shall not have others killed.

    That is what they are expected to take and how they grow; or what they hold at the next look, however large they may
    become: one that has just begun frees nothing by being stopped, and can be stopped once it has grown.
    """
    least_first = sorted(
        (min(max(job.need_bytes, soon_bytes), job.bytes + soon_bytes), _key(task, job))
        for task in moment.tasks
        for job in task.jobs
        for soon_bytes in (job.soon_bytes(reaction_s),)
    )
    most_bytes = min(SMALL_BYTES, moment.stop_bytes - moment.kill_bytes)
    together = accumulate(more_bytes for more_bytes, _ in least_first)
    return {key for (_, key), sum_bytes in zip(least_first, together) if sum_bytes <= most_bytes}


def _key(task: Running, job: Job) -> tuple[str, int]:
    return task.tid, job.pid


def _kills(moment: Moment, by_age: Sequence[_Owned], going: Sequence[_Owned]) -> list[Action]:
    """The job to kill, where next to nothing is left and nothing can be stopped any more.

    It is the youngest that holds what is missing, else the one that holds most: no more are killed than must be. What
    it held must last until the next one may be killed. The oldest is killed only where no other is worth it. One that
    holds nearly all that tasks hold has the last of the memory, as long as it gets on with it: without it the others
    would be no better off, and it would take as much the next time.
    """
    short, soon_bytes = moment.kill_bytes - moment.left_bytes, max(0.0, moment.fill_bytes_s) * moment.kill_reaction_s
    if moment.crawl_s < CRAWL_S:
        # What does not run goes to swap first: stopped jobs, and BitBake's own processes that wait.
        short -= moment.swap_left_bytes
    if short + soon_bytes <= 0 or moment.since_kill_s < KILL_PAUSE_S:
        return []
    until_next_s = REACTION_S + KILL_PAUSE_S
    missing = short + max(_soon_bytes([job for _, job in going], until_next_s), moment.fill_bytes_s * until_next_s)
    youngest_first = [(task, job) for task, job in reversed(by_age) if task.may_kill]
    if not youngest_first:
        return []
    largest = max(youngest_first, key=lambda pair: pair[1].bytes)
    if not largest[1].bytes:
        return []
    worth_bytes = min(SMALL_BYTES, WORTH_SHARE * largest[1].bytes)
    found = [(task, job) for task, job in youngest_first if job is not by_age[0][1] and job.bytes > worth_bytes]
    enough = next((pair for pair in found if pair[1].bytes >= missing), None)
    task, job = enough or max(found, key=lambda pair: pair[1].bytes, default=largest)
    held_bytes = sum(max(one.current_bytes, sum(job.bytes for job in one.jobs)) for one in moment.tasks)
    others_run = any(one is not task and (one.jobs or one.current_bytes > SMALL_BYTES) for one in moment.tasks)
    # Who takes no CPU time at all may wait for one that is stopped.
    is_crawling = moment.crawl_s >= (CRAWL_S if others_run else CRAWL_ALONE_S) and moment.stalled_s < CRAWL_S
    if job.bytes >= ALL_SHARE * held_bytes and not is_crawling:
        short -= int(moment.kill_bytes * min(1 - LAST_SHARE, job.bytes / held_bytes))
    if short + soon_bytes <= 0:
        return []
    return [Action(Act.KILL, task.tid, "the limit is near, and nothing can be stopped", job)]


def _wakes(
    moment: Moment,
    oldest_first: Sequence[Running],
    by_age: Sequence[_Owned],
    forecast: Forecast,
    going: Sequence[_Owned],
    is_calm: bool,
) -> list[Action]:
    """The jobs to wake, the oldest first, while what they are expected to take beside the others fits.

    What they held is in use all the time. The protected job may have what is kept free for it, and is woken in any case
    where none but small ones go on. They grow on at once as they did when they were stopped: until the next look that
    must fit above the stop mark, whatever the forecast says of others that will end. Whole tasks wake one at a time,
    with a longer pause, where as much fits again as they hold: nobody knows what they will take.
    """
    small = _small(moment, moment.reaction_s)
    if by_age and by_age[0][1].is_stopped and all(_key(*pair) in small for pair in going):
        task, job = by_age[0]
        return [Action(Act.WAKE, task.tid, "nothing else goes on", job)]
    if moment.stalled_s >= STALLED_S:
        return _wake_for_good(oldest_first)
    is_stuck = not going and not any(task.current_bytes for task in oldest_first if not task.is_stopped)
    if not is_stuck and (moment.is_pressed or not is_calm):
        return []
    budget = forecast.budget(moment.reserve_bytes - moment.kill_bytes)
    for task, job in going:
        budget.add(forecast.of(task, job).own)
    soon_bytes = _soon_bytes([job for _, job in going], moment.reaction_s)
    most = int(min(WAKES_MOST, moment.since_wake_s / WAKE_PAUSE_S))
    found: list[Action] = []
    is_any_left = False
    waiting = [(task, job) for task, job in by_age if job.is_stopped]
    stopped_bytes = moment.stopped_bytes
    for task, job in waiting:
        if len(found) >= most:
            break
        own, more_bytes = forecast.of(task, job).own, job.soon_bytes(moment.reaction_s)
        budget.add(own)
        free = moment.stop_bytes if job is by_age[0][1] else moment.reserve_bytes
        left_bytes = moment.left_bytes + moment.parked_bytes(stopped_bytes - job.bytes)
        fits_soon = soon_bytes + more_bytes <= left_bytes - moment.stop_bytes
        is_small = _key(task, job) in small
        fits = budget.fits(left_bytes - free) or (is_small and left_bytes - moment.stop_bytes >= SMALL_BYTES)
        if not fits_soon or not fits or (is_any_left and not is_small):
            budget.take(own)
            is_any_left = True  # those that are small pass it
            continue
        soon_bytes += more_bytes
        stopped_bytes -= job.bytes
        found.append(Action(Act.WAKE, task.tid, "it fits again", job))
    if waiting:
        return found
    for task in oldest_first:
        if task.is_stopped:
            left_bytes = moment.left_bytes + moment.parked_bytes(stopped_bytes - task.current_bytes)
            need_bytes = task.current_bytes + task.swapped_bytes
            fits = left_bytes - moment.reserve_bytes >= budget.most_bytes + need_bytes
            if is_stuck or (fits and moment.since_wake_s >= TASK_PAUSE_S):
                return [Action(Act.WAKE, task.tid, "it fits again")]
            break
    return []


def _wake_for_good(oldest_first: Sequence[Running]) -> list[Action]:
    """The oldest of all that is stopped: nothing goes on, perhaps since the others wait for it."""
    reason = "nothing goes on without it"
    for task in oldest_first:
        if task.is_stopped:
            return [Action(Act.WAKE, task.tid, reason, is_final=True)]
        for job in reversed(task.jobs):
            if job.is_stopped:
                return [Action(Act.WAKE, task.tid, reason, job, is_final=True)]
    return []
