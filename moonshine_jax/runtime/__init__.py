"""The process that runs: its devices, the other processes of a run, signals, files, and user-defined functions."""
