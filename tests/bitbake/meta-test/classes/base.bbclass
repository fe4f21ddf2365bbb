# SPDX-License-Identifier: MIT
# The tasks that every recipe has, in the order and with the names of OpenEmbedded-Core.
# Sources are what SRC_URI names, and else a directory beside the recipe that has its name or is called `files`.

def test_source_dir(d):
    """Return the directory beside the recipe that holds its sources, or nothing."""
    for name in (d.getVar("BPN"), "files"):
        path = os.path.join(d.getVar("FILE_DIRNAME"), name)
        if os.path.isdir(path):
            return path
    return ""

TEST_SOURCE_DIR = "${@test_source_dir(d)}"

addtask fetch
do_fetch[network] = "1"
do_fetch[file-checksums] = "${@bb.fetch.get_checksum_file_list(d)}"
python base_do_fetch() {
    uris = (d.getVar("SRC_URI") or "").split()
    if uris:
        bb.fetch2.Fetch(uris, d).download()
}

addtask unpack after do_fetch
do_unpack[cleandirs] = "${UNPACKDIR}"
do_unpack[vardepsexclude] = "TEST_SOURCE_DIR"
do_unpack[file-checksums] = "${@d.getVar('TEST_SOURCE_DIR') + ':True' if d.getVar('TEST_SOURCE_DIR') else ''}"
python base_do_unpack() {
    import shutil
    uris = (d.getVar("SRC_URI") or "").split()
    source = d.getVar("TEST_SOURCE_DIR")
    if uris:
        bb.fetch2.Fetch(uris, d).unpack(d.getVar("UNPACKDIR"))
    elif source:
        shutil.copytree(source, d.getVar("S"), dirs_exist_ok=True)
}

addtask configure after do_unpack
do_configure[dirs] = "${S} ${B}"
do_configure[deptask] = "do_install"
base_do_configure() {
    :
}

addtask compile after do_configure
do_compile[dirs] = "${S} ${B}"
base_do_compile() {
    :
}

addtask install after do_compile
do_install[cleandirs] = "${D}"
do_install[dirs] = "${B}"
base_do_install() {
    :
}

addtask build after do_install
do_build[noexec] = "1"
do_build() {
    :
}

EXPORT_FUNCTIONS do_fetch do_unpack do_configure do_compile do_install
