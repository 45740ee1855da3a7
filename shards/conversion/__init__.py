"""A conversion: the plan, its journal, the workers that write shards, and publishing."""
