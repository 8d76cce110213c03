"""Data: from a data set's name to batches on the devices."""
