# SPDX-License-Identifier: MIT
SUMMARY = "Twenty-four units of C whose code is made at the link (LTO): the link takes more than any number of compilers"
inherit make
