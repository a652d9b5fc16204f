"""Store: activations on disk, in shards that are shuffled when written."""
