"""Export of one trained network to the file formats of other runtimes."""
