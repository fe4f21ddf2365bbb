# SPDX-License-Identifier: GPL-2.0-only
"""Empty stand-in: BitBake imports this module but uses it only with a hash server."""
