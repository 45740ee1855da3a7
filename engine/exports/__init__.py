"""A trained backbone in the names, folders and detectors of other libraries."""
