# SPDX-License-Identifier: MIT
require chaos.inc

do_configure:append() {
    {
        printf 'rule compile\n  command = sh ${S}/compile $out $in\n'
        for size in ${CHAOS_SIZES}; do
            echo "build l$size.o: compile l$size.c"
        done
    } > build.ninja
}

do_compile() {
    ninja ${PARALLEL_MAKE}
}
