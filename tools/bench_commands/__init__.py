"""The commands of `viewmill bench`, a file for each room that they measure."""
