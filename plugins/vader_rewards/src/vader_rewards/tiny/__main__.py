"""Command line: ``python -m vader_rewards.tiny FOLDER``."""

from __future__ import annotations

import argparse
from pathlib import Path

from vader_rewards.tiny import write


def main() -> None:
    """Write the networks into the folder that is given."""
    parser = argparse.ArgumentParser(
        prog="python -m vader_rewards.tiny", description="Write tiny random networks for the rewards."
    )
    parser.add_argument("folder", type=Path, help="where to write them")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    arguments = parser.parse_args()
    print(f"wrote {write(arguments.folder, arguments.seed)}")


if __name__ == "__main__":
    main()
