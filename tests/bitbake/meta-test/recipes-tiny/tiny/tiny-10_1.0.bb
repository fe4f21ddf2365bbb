# SPDX-License-Identifier: MIT
require tiny.inc

DEPENDS = "tiny-08 tiny-09"
