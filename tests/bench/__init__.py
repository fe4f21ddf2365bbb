# SPDX-License-Identifier: MIT
"""Measurements, run by scripts/bench; each prints its baseline beside it. Results go to docs/benchmarks.md."""
