"""Starting a training on one machine or many: what would be written and run for each kind of cluster."""
