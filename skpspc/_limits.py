"""Limits on the memory that a file may take, which the command line shows without a library."""

MAX_BYTES = 2**33
"""Default of ``max_bytes``: memory for the contents of one file, 8 GiB."""
