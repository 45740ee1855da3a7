"""What `verify` looks at and what it mends, a file for each subject."""
