# SPDX-License-Identifier: MIT
#
# memguard: a build that fits the memory of its container
#
# Switch on, in local.conf or a kas file:
#
#     INHERIT += "memguard"
#
# Nothing else is needed. memguard finds the container's memory limit, predicts what each task will take, holds a task
# that does not fit until it does, and starts it with fewer jobs where that lets it start. Task signatures stay as they
# are, so sstate is shared with builds without memguard.
#
# What you may want to set, all in local.conf:
#
#     MEMGUARD_MODE = "observe"       say what would be done, and do nothing
#     MEMGUARD_LIMIT = "12G"          where the limit cannot be seen from inside, or less should be used
#     MEMGUARD_RESERVE = "10%"        memory kept free
#     MEMGUARD_HISTORY = "${SSTATE_DIR}/../memguard-history.db"
#                                     where it is remembered what tasks took, for this build and others
#     MEMGUARD_FOOTPRINT:pn-mybrowser = "do_compile:base=200M,per_job=2600M,serial=8G"
#                                     what you know of a recipe: peak = base + per_job x jobs, at least serial,
#                                     and with most=SIZE never more than that
#
# A small process beside the BitBake server, the sentinel, measures what every task takes, and the history remembers it:
# from the second build on, predictions rest on what was seen. It ends with the server.
#
# A compile whose compiler was killed for memory all the same does not fail: it runs again with fewer jobs, on top of the
# objects that are there, and the build ends well with one warning (MEMGUARD_RETRIES, MEMGUARD_RETRY_TASKS).
#
# The build's first and last lines tell limit, peak, and what was held and shrunk; every decision is a line of JSON in
# ${MEMGUARD_DIR}/events.
#
# Schedulers: memguard brings two, "memguard" over BitBake's speed order and "memguard-completion" over its completion
# order, and chooses the second where rm_work is inherited. A BB_SCHEDULER of your own stands; memguard then observes.
#
# Honest notes:
#  - A task whose build tool takes no tokens keeps its number of jobs for the whole of its run; its compilers are stopped
#    where memory is short.
#  - A task that does not fit an empty container runs alone, with one job, and may still be killed.
#  - What runs again must bear to be repeated without cleaning: cleandirs of compile tasks are then left alone. A recipe
#    whose do_compile does not says MEMGUARD_RETRIES:pn-NAME = "0".
#  - A kill that takes the task's own process, or its worker, cannot be survived in place.
#  - Setscene tasks do not pass through BitBake's scheduler and are not held.
#  - Footprints of single recipes are read from the configuration (:pn- lines), not from recipes.

MEMGUARD_MODE ?= "enforce"
MEMGUARD_MODE[doc] = "What memguard may do: enforce (hold tasks and lower their jobs), observe (only say what it would do) or off."

MEMGUARD_LIMIT ?= ""
MEMGUARD_LIMIT[doc] = "Memory the build may use, for example 12G. Empty: what the container's cgroup says, else all memory. The smaller of both counts."

MEMGUARD_RESERVE ?= ""
MEMGUARD_RESERVE[doc] = "Memory kept free, as a size (1G) or a share of the limit (10%). Empty: 5 % of the limit, at least 256M, at most 2G and a quarter of the limit."

MEMGUARD_MIN_JOBS ?= "25%"
MEMGUARD_MIN_JOBS[doc] = "The fewest jobs a task is started with before it is held instead, as a number or as a share of what it wants (of the CPUs, where it wants more)."

MEMGUARD_DIR ?= "${TOPDIR}/memguard"
MEMGUARD_DIR[doc] = "Directory for events, grants on their way to the tasks, and tracebacks. One for all multiconfigs."

MEMGUARD_HISTORY ?= "${MEMGUARD_DIR}/history.db"
MEMGUARD_HISTORY[doc] = "Database of what tasks took in earlier builds. Several builds may share it: point it to a place that outlives the container, next to SSTATE_DIR for example. postgresql://USER@HOST/DATABASE shares what is learned with a whole fleet, by the memguard command. Empty: nothing is remembered."

MEMGUARD_HISTORY_MAX ?= "64M"
MEMGUARD_HISTORY_MAX[doc] = "What MEMGUARD_HISTORY may grow to; the oldest records of the best-known tasks are forgotten first."

MEMGUARD_RETRIES ?= "2"
MEMGUARD_RETRIES[doc] = "How often a task whose compiler was killed for memory runs again with half as many jobs, but no fewer than there are CPUs, before it runs once more with one job and alone; a run that ended while a larger compiler ran is not counted, up to six times. 0: never, not even that."

MEMGUARD_RETRY_TASKS ?= "do_compile do_compile_kernelmodules do_compile_ptest_base do_install"
MEMGUARD_RETRY_TASKS[doc] = "Tasks that may run again after a memory kill: what they do can be repeated on top of what is there. Shell patterns are allowed."

MEMGUARD_NO_KILL ?= "do_fetch do_rootfs do_image* do_package_write_* *_setscene"
MEMGUARD_NO_KILL[doc] = "Tasks of which memguard kills no process, whatever memory is left. Shell patterns are allowed."

MEMGUARD_PRESSURE_CMD ?= ""
MEMGUARD_PRESSURE_CMD[doc] = "A command that is started before a process is killed, for example to ask the platform for a larger container. At most once a minute, for at most 10 s; it finds MEMGUARD_LIMIT_BYTES, MEMGUARD_USED_BYTES, MEMGUARD_RECIPE and MEMGUARD_TASK in its environment."

MEMGUARD_METRICS ?= ""
MEMGUARD_METRICS[doc] = "File for the textfile collector of Prometheus' node_exporter, written every few seconds, for example /var/lib/prometheus/node-exporter/memguard.prom. Empty: none."

MEMGUARD_JOBSERVER ?= "auto"
MEMGUARD_JOBSERVER[doc] = "Whether tasks take their jobs from a pool that follows the memory while they run: auto (those whose make, ninja and cargo can) or off. MEMGUARD_JOBSERVER:pn-foo = 'off' for one recipe."

MEMGUARD_FOOTPRINT[doc] = "What is known of a recipe's memory, for example MEMGUARD_FOOTPRINT:pn-foo = 'do_compile:base=200M,per_job=2600M,serial=8G do_package:serial=3G'."

BB_SCHEDULERS:append = " memguard.bitbake.scheduler.MemguardScheduler memguard.bitbake.scheduler.MemguardCompletionScheduler"

python memguard_server () {
    from memguard.bitbake import handlers
    handlers.handle(e, d)
}
addhandler memguard_server
memguard_server[eventmask] = "bb.event.ConfigParsed bb.event.BuildStarted bb.event.BuildCompleted bb.event.HeartbeatEvent bb.runqueue.runQueueTaskStarted bb.runqueue.runQueueTaskCompleted bb.runqueue.runQueueTaskFailed"

python memguard_task () {
    from memguard.bitbake import task
    task.handle(e, d)
}
addhandler memguard_task
memguard_task[eventmask] = "bb.build.TaskStarted bb.build.TaskSucceeded bb.build.TaskFailed bb.build.TaskFailedSilent"
