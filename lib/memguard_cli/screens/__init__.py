# SPDX-License-Identifier: MIT
"""What terminals show."""
