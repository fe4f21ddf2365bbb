# SPDX-License-Identifier: MIT
SUMMARY = "A small program"
DEPENDS = ""
require light.inc
