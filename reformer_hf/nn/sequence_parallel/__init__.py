"""One row over several processes: what a shard of it needs of the others."""
