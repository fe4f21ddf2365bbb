# SPDX-License-Identifier: MIT
# Gives tasks pools without a sentinel; whoever runs the test regulates them. POOL_JOBS is the most of each task.

python pool_by_hand () {
    from memguard import settings
    from memguard.bitbake import task_pool
    if isinstance(e, bb.build.TaskStarted):
        path = task_pool.join_pool(e, d, settings.read_task(d.getVar, e.task), int(d.getVar("POOL_JOBS") or "8"))
        if path and d.getVar("POOL_REFUSED"):
            task_pool.leave_pool(d)
    else:
        task_pool.leave_pool(d)
}
addhandler pool_by_hand
pool_by_hand[eventmask] = "bb.build.TaskStarted bb.build.TaskSucceeded bb.build.TaskFailed bb.build.TaskFailedSilent"
