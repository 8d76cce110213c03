"""One trained network in the formats of other runtimes."""
