# SPDX-License-Identifier: MIT
SUMMARY = "Boost.Spirit by make: six compilers of some 600 MB"
LICENSE = "CLOSED"
SRC_URI = "file://Makefile file://parser.hpp file://main.cpp \
    file://part1.cpp file://part2.cpp file://part3.cpp file://part4.cpp file://part5.cpp file://part6.cpp"
S = "${UNPACKDIR}"
inherit native

do_compile() {
    oe_runmake
}

do_install() {
    oe_runmake install DESTDIR=${D} bindir=${bindir}
}
