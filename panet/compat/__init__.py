"""Workarounds for faults and uses of private names of other packages, one file per workaround.

Each file states the fault, the version it was seen in, and when the file can be removed. Its test
in ``tests/unit/compat`` fails when that is the case, as far as this can be tested, or when the
patched code has changed. Nothing in here imports other parts of this project.
"""
