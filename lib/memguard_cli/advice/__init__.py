# SPDX-License-Identifier: MIT
"""What doctor and reports advise."""
