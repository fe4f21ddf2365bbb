# SPDX-License-Identifier: MIT
# As again-make, without cleandirs.
require again.inc
