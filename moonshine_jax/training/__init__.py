"""From a config to trained students."""
