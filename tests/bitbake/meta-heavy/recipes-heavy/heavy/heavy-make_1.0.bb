# SPDX-License-Identifier: MIT
SUMMARY = "Four large translation units, built by make"
inherit make
