"""``python -m vader``."""

from vader.cli import main

if __name__ == "__main__":
    main()
