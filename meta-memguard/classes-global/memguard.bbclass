# SPDX-License-Identifier: MIT
#
# memguard: builds that stay within the memory of their container
#
# Switch on, in local.conf or a kas file:
#
#     INHERIT += "memguard"
#
# Nothing else is needed. memguard finds the container's memory limit, predicts what each task will take, holds a task
# until it fits, and starts it with fewer jobs if only those fit. Task signatures do not change, so sstate is shared with
# builds without memguard.
#
# What you may want to set, all in local.conf:
#
#     MEMGUARD_MODE = "observe"       only say what would be done
#     MEMGUARD_LIMIT = "12G"          if the limit cannot be seen from inside, or less should be used
#     MEMGUARD_RESERVE = "10%"        memory kept free
#     MEMGUARD_HISTORY = "${SSTATE_DIR}/../memguard-history.db"
#                                     where records of what tasks took are kept, for this build and others
#     MEMGUARD_FOOTPRINT:pn-mybrowser = "do_compile:base=200M,per_job=2600M,serial=8G"
#                                     what you know of a recipe: peak = base + per_job x jobs, at least serial,
#                                     and with most=SIZE never more than that
#
# A small process beside the BitBake server, the sentinel, measures what every task takes, and the history keeps it: from
# the second build on, predictions rest on measurements. The sentinel ends with the server.
#
# If a compiler is killed for memory all the same, its task does not fail: it runs again with fewer jobs, on top of the
# objects that are there, and the build succeeds with one warning (MEMGUARD_RETRIES, MEMGUARD_RETRY_TASKS).
#
# The build's first and last lines show the limit, the peak, and what was held and shrunk. Every decision is a line of JSON
# in ${MEMGUARD_DIR}/events.
#
# Schedulers: memguard has two, "memguard" with BitBake's speed order and "memguard-completion" with its completion order,
# and chooses the second if rm_work is inherited. Your own BB_SCHEDULER is respected; memguard then only observes.
#
# Limitations:
#  - A task whose build tool takes no tokens keeps its number of jobs for its whole run; its compilers are stopped when
#    memory is short.
#  - A task that does not fit into an empty container runs alone, with one job, and may still be killed.
#  - A task that runs again is repeated without cleaning: cleandirs of compile tasks are left alone. If a recipe's
#    do_compile cannot be repeated like that, set MEMGUARD_RETRIES:pn-NAME = "0".
#  - If the task's own process or its BitBake worker is killed, the task fails.
#  - Setscene tasks do not pass through BitBake's scheduler: as many start as fit, in BitBake's order.
#  - Footprints of single recipes are read from the configuration (:pn- lines), not from recipes.

MEMGUARD_MODE ?= "enforce"
MEMGUARD_MODE[doc] = "What memguard may do: enforce (hold tasks and lower their jobs), observe (only say what it would do) or off."

MEMGUARD_LIMIT ?= ""
MEMGUARD_LIMIT[doc] = "Memory the build may use, for example 12G. Empty: the limit of the container's cgroup, or else all memory. If both are set, the smaller one counts."

MEMGUARD_RESERVE ?= ""
MEMGUARD_RESERVE[doc] = "Memory kept free, as a size (1G) or a share of the limit (10%). Empty: 5 % of the limit, at least 256M, at most 2G and a quarter of the limit."

MEMGUARD_MIN_JOBS ?= "25%"
MEMGUARD_MIN_JOBS[doc] = "The fewest jobs a task is started with; if fewer fit, it is held. A number, or a share of what it asks for (of the CPUs, if it asks for more)."

MEMGUARD_DIR ?= "${TOPDIR}/memguard"
MEMGUARD_DIR[doc] = "Directory for events, readings, the state, grants on their way to tasks, and tracebacks. All multiconfigs share one. It serves one build at a time: a second one goes on as stock."

MEMGUARD_HISTORY ?= "${MEMGUARD_DIR}/history.db"
MEMGUARD_HISTORY[doc] = "Database of what tasks took in earlier builds. Several builds may share it. Put it in a place that outlives the container, next to SSTATE_DIR for example. postgresql://USER@HOST/DATABASE shares what is learned with a whole fleet, through the memguard command. Empty: nothing is remembered."

MEMGUARD_HISTORY_MAX ?= "64M"
MEMGUARD_HISTORY_MAX[doc] = "The size MEMGUARD_HISTORY may grow to; the oldest records of the best-known tasks are forgotten first."

MEMGUARD_RETRIES ?= "2"
MEMGUARD_RETRIES[doc] = "How often a task whose compiler was killed for memory runs again with half as many jobs, but no fewer than there are CPUs, before it runs one last time, alone and with one job. A run that was killed beside a larger compiler is not counted, up to six times. 0: never run again."

MEMGUARD_RETRY_TASKS ?= "do_compile do_compile_kernelmodules do_compile_ptest_base do_install"
MEMGUARD_RETRY_TASKS[doc] = "Tasks that may run again after a memory kill, because they can be repeated on top of what is there. Shell patterns are allowed."

MEMGUARD_NO_KILL ?= "do_fetch do_rootfs do_image* do_package_write_* *_setscene"
MEMGUARD_NO_KILL[doc] = "Tasks whose processes memguard never kills, however little memory is left. Shell patterns are allowed."

MEMGUARD_PRESSURE_CMD ?= ""
MEMGUARD_PRESSURE_CMD[doc] = "A command that is started to ask the platform for a larger container, for example memguard grow: when a task has waited for memory for some seconds although CPUs are idle, and before a process is killed. It runs at most once a minute and for at most two minutes, with MEMGUARD_LIMIT_BYTES, MEMGUARD_USED_BYTES, MEMGUARD_RECIPE, MEMGUARD_TASK and MEMGUARD_WANTED_BYTES (what the task lacks; empty before a kill) in an environment that is otherwise plain (HOME, USER, a usual PATH). All that it has started ends with it. The build does not wait for it."

MEMGUARD_METRICS ?= ""
MEMGUARD_METRICS[doc] = "File for the textfile collector of Prometheus' node_exporter, written every few seconds, for example /var/lib/prometheus/node-exporter/memguard.prom. Empty: none."

MEMGUARD_JOBSERVER ?= "auto"
MEMGUARD_JOBSERVER[doc] = "Whether tasks take their jobs from a pool of tokens that follows memory while they run: auto (if their make, ninja and cargo support it) or off. For one recipe: MEMGUARD_JOBSERVER:pn-foo = 'off'."

MEMGUARD_PARKING ?= "auto"
MEMGUARD_PARKING[doc] = "Whether stopped jobs may be parked in swap, if the container has any; their memory then counts as free, up to the swap that is left: auto or off. Without swap nothing is parked."

MEMGUARD_CHAIN ?= "auto"
MEMGUARD_CHAIN[doc] = "Whether tasks that the end of the build does not wait for start with a higher nice value, 5 steps above BB_TASK_NICE_LEVEL, so that the longest chain of tasks gets its CPU: auto or off. It works from the second build on, when durations are known."

MEMGUARD_NEIGHBOURS ?= "auto"
MEMGUARD_NEIGHBOURS[doc] = "Where builds under the same limit find each other, so that they share its memory and the oldest job of all goes on: auto (/run/memguard where root has made it for all users, mode 1777, else /dev/shm/memguard-UID), the path of a directory, or off."

MEMGUARD_CGROUPS ?= "off"
MEMGUARD_CGROUPS[doc] = "Whether tasks have a cgroup of their own where one OOM kill would take the whole container (memory.oom.group) and the container's own cgroup may be written, so that such a kill takes one process: auto or off. What runs in the container is moved to a cgroup beside that one for the time of the build. For cgroup v2; memguard doctor says whether it is possible."

MEMGUARD_FOOTPRINT[doc] = "What you know of a recipe's memory, for example MEMGUARD_FOOTPRINT:pn-foo = 'do_compile:base=200M,per_job=2600M,serial=8G do_package:serial=3G'."

BB_SCHEDULERS:append = " memguard.bitbake.scheduler.MemguardScheduler memguard.bitbake.scheduler.MemguardCompletionScheduler"

python memguard_server () {
    try:
        from memguard.bitbake import handlers
    except Exception as error:
        bb.warnonce("memguard: it cannot be imported, the build goes on as stock: %r" % error)
        return
    handlers.handle(e, d)
}
addhandler memguard_server
memguard_server[eventmask] = "bb.event.ConfigParsed bb.event.BuildStarted bb.event.BuildCompleted bb.event.HeartbeatEvent bb.runqueue.runQueueTaskStarted bb.runqueue.runQueueTaskCompleted bb.runqueue.runQueueTaskFailed"

python memguard_task () {
    try:
        from memguard.bitbake import task
    except Exception as error:
        bb.warnonce("memguard: it cannot be imported, the build goes on as stock: %r" % error)
        return
    task.handle(e, d)
}
addhandler memguard_task
memguard_task[eventmask] = "bb.build.TaskStarted bb.build.TaskSucceeded bb.build.TaskFailed bb.build.TaskFailedSilent"
