"""A rank, a collective, a worker, a mount or a disk fails: noticed, named, ended."""
