"""Configurations: `get_config()` of a file here is what `--config` takes, by path or by name."""
