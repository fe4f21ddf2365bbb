# SPDX-License-Identifier: MIT
"""What lies in a build directory, read: configuration, logs, state, history and buildstats.

May import no other room of the command.
"""
