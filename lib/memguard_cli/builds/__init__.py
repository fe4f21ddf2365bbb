# SPDX-License-Identifier: MIT
"""A build directory, read."""
