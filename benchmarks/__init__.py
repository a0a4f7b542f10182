"""Programs that print a table; figures are medians of interleaved rounds."""
