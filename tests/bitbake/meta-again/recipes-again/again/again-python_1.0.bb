# SPDX-License-Identifier: MIT
# Compiles in Python, as some classes do.
require again.inc

python do_compile() {
    import subprocess
    with open(d.getVar("AGAIN_LOG"), "a") as log:
        log.write(d.expand("${PN} compile ${PARALLEL_MAKE}\n"))
    bb.note("compiling in Python")
    try:
        subprocess.run(d.getVar("AGAIN_MAKE").split() + ["program"], check=True)
    except subprocess.CalledProcessError as error:
        bb.error("make failed in Python: %s" % error.returncode)
        raise
}
