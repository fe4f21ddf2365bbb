# SPDX-License-Identifier: MIT
require tiny.inc

DEPENDS = "tiny-01 tiny-02"
