# SPDX-License-Identifier: MIT
"""Any command under the reflex: memguard run.

May import no other room of the command.
"""
