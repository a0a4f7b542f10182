"""HTTP over a bundle, and batch scoring of files."""
