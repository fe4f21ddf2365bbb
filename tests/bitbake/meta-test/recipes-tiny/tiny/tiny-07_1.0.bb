# SPDX-License-Identifier: MIT
require tiny.inc
