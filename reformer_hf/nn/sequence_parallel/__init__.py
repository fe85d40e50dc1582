"""One row over several processes: what a shard of it needs of the shards before it."""
