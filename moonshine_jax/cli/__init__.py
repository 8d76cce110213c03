"""The commands: the only package that defines flags, prints and exits."""
