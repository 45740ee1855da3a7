"""Where images come from: folders, tables, tars, binary files, data sets; all are ranges of files' bytes."""
