"""Commands that measure; each prints a table and writes JSON with the hardware, the versions and the commit."""
