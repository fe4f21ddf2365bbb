# SPDX-License-Identifier: MIT
"""Any command under the reflex: memguard run."""
