# SPDX-License-Identifier: MIT
SUMMARY = "Two large translation units, and a recipe that asks for one job at a time"
inherit make
PARALLEL_MAKE = "-j 1"
EXTRA_OEMAKE = "PARTS='part1.o part2.o'"
