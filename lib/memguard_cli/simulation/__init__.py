# SPDX-License-Identifier: MIT
"""An imaginary build: its graph, what its tasks take over time, and the rules that start them.

Runs in: outside BitBake.
May import builds.
"""
