"""The `stancewire` command."""
