"""``python -m btcbt``."""

from btcbt.cli import main

if __name__ == "__main__":
    main()
