# SPDX-License-Identifier: MIT
"""The report of one build, as text, page and data."""
