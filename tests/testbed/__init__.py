# SPDX-License-Identifier: MIT
"""Real BitBakes and real builds for the tests."""
