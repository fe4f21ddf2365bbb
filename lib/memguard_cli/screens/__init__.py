# SPDX-License-Identifier: MIT
"""Words, tables and pictures for people at a terminal, and the same as data for machines.

May import builds, advice and simulation.
"""
