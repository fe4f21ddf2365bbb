# SPDX-License-Identifier: GPL-2.0-only
"""Stand-in for BitBake's PR service, which the tree assembled for tests does not have."""
