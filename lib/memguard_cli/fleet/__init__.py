# SPDX-License-Identifier: MIT
"""The database that many builds share.

May import no other room of the command.
"""
