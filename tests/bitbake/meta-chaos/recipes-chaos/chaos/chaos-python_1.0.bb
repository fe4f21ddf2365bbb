# SPDX-License-Identifier: MIT
require chaos.inc

python do_compile() {
    command = "make ${PARALLEL_MAKE} -f ${S}/Makefile S=${S}"
    bb.process.run([*d.expand(command).split(), d.expand("OBJECTS=${CHAOS_OBJECTS}")])
}
