"""Data sets by name, and their batches on the devices."""
