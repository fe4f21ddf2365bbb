# SPDX-License-Identifier: MIT
# Fails for reasons of its own, and says so in every way a shell task can.
require again.inc

# What OpenEmbedded-Core's logging class does: words to BitBake, each ended by NUL, in the FIFO that it reads for a task.
AGAIN_FIFO = "${T}/fifo.${@os.getpid()}"
again_say() {
    printf '%s\0' "$*" > ${AGAIN_FIFO}
}

do_compile() {
    echo "${PN} compile ${PARALLEL_MAKE}" >> ${AGAIN_LOG}
    again_say bbnote "a note of ${PN}"
    again_say bberror "first error of ${PN}"
    again_say bbwarn "a warning of ${PN}"
    again_say bbplain "plain words of ${PN}"
    again_say bberror "second error of ${PN}"
    ${AGAIN_MAKE} program || { again_say bbfatal "make failed"; exit 1; }
}
