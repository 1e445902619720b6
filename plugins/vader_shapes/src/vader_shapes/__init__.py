"""The shapes world: a tiny text-to-video world with an exact evaluator and an embedded Wan model."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
