"""Mishaps to runs. ``test_chaos.py`` starts it as ``python -m tests.chaos FOLDER SEED ROUNDS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tests.chaos import rounds
from tests.chaos.deaths import Deaths


def main() -> None:
    """All of them, with a report as JSON."""
    folder, seed, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    every = max(1, 60 // number)
    report = {"rounds": rounds.play(folder, seed, number), "deaths": {"every": every, **Deaths(folder, every).play()}}
    (folder / "report.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
