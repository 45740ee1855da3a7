"""What `verify` looks at, a file for each subject."""
