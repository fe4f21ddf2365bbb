# SPDX-License-Identifier: MIT
"""The `memguard` command: one module per subcommand.

Runs in: outside BitBake; may import well-kept packages, never bb.
"""
