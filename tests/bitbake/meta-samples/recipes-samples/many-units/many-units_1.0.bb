# SPDX-License-Identifier: MIT
SUMMARY = "Twenty-four small units of four sizes, built by make: more units than jobs, and a small link"
inherit make
