# SPDX-License-Identifier: MIT
require again.inc

# Half an object would be taken for a whole one, and what is made here must outlive another run.
do_compile[cleandirs] = "${B}/kept"
do_compile:prepend() {
    echo "kept $(ls ${B}/kept | wc -l)" >> ${AGAIN_LOG}
    touch ${B}/kept/file
}
