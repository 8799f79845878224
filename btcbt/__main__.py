"""``python -m btcbt``."""

from btcbt.cli.main import main

if __name__ == "__main__":
    main()
