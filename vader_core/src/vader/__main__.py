"""``python -m vader``."""

from vader.cli.app import main

if __name__ == "__main__":
    main()
