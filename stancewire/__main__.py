"""`python -m stancewire` is the `stancewire` command."""

from stancewire.command import main

if __name__ == "__main__":
    main()
