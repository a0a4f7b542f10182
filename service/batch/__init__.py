"""Archives of texts: read in shards, scored, written whole or not at all, on one machine or many."""
