"""Reports: the runs of many workdirs as tables, figures and one HTML page; pictures of attention maps."""
