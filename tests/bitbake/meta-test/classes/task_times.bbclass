# SPDX-License-Identifier: MIT
# Writes down when BitBake has started tasks, and when they had ended: time, event, recipe and task, a line each.

addhandler task_times
task_times[eventmask] = "bb.runqueue.runQueueTaskStarted bb.runqueue.runQueueTaskCompleted"
python task_times() {
    import time
    recipe = os.path.basename(e.taskfile).partition("_")[0]
    with open(d.expand("${TOPDIR}/task-times"), "a") as file:
        print(time.time(), type(e).__name__, recipe, e.taskname, file=file)
}
