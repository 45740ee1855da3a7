"""Statistics of a data set as plots and as a page."""
