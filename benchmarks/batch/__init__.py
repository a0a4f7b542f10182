"""Archives scored side by side."""
