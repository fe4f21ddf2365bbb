# SPDX-License-Identifier: MIT
"""What will be: footprints, durations and lives of jobs, from what was seen.

Pure. May import the words.
"""
