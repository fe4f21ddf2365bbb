# SPDX-License-Identifier: MIT
"""The database that many builds share."""
