"""The process: its devices, the other processes of its run, signals, files, and the functions that a user names."""
