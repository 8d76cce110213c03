"""Commands that measure speed and memory.

Each prints a table, and with `--json` writes it with the hardware, the versions and the commit.
"""
