"""The seed corpus and its codebook."""
