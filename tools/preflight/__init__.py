"""Whether a job's machines are fit for it: facts of every rank, judged on rank 0."""
