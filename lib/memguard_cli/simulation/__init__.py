# SPDX-License-Identifier: MIT
"""A build that is only thought: its graph, what its tasks take over time, and the rules that start them.

Runs in: outside BitBake.
May import builds.
"""
