"""Many workdirs to tables, figures and one page."""
