# SPDX-License-Identifier: MIT
require tiny.inc

DEPENDS = "tiny-04"
