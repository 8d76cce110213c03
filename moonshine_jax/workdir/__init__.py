"""One run on disk: the only package that knows its file names."""
