"""The runs that are measured: a spec each, at real size or, dry, at toy size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_BASE: dict[str, Any] = {
    "prompts": {"name": "list", "options": {"prompts": ["a fox runs through snow"]}},
    "gradient": {"mode": "last"},
    "validation": {"clips": 0},
}
REAL: dict[str, Any] = {
    "video": {"frames": 81, "height": 480, "width": 832},
    "sampler": {"steps": 5, "guidance_scale": 5.0},
    "rewards": [{"name": f"{HERE / 'random_weights.py'}:RandomAesthetic"}],
    "frames": {"mode": "index", "index": 80},
    "train": {"steps": 2, "mixed_precision": "bf16", "gradient_checkpointing": True},
}
DRY: dict[str, Any] = {
    "video": {"frames": 9, "height": 32, "width": 32},
    "sampler": {"steps": 2, "guidance_scale": 5.0},
    "rewards": [{"name": "shapes_colourfulness"}],
    "frames": {"mode": "index", "index": 8},
    "train": {"steps": 1, "device": "cpu"},
}
_SMALL = ["frames.decode_window=1", "frames.decode_precision=bf16"]
VARIANTS: dict[str, list[str]] = {
    "window 1, bf16": _SMALL,
    "window 3, bf16": ["frames.decode_window=3", "frames.decode_precision=bf16"],
    "exact, float32": [],
    "exact, bf16": ["frames.decode_precision=bf16"],
    "window 1, no block checkpointing": [*_SMALL, "train.gradient_checkpointing=false"],
    "window 1, K 2": [*_SMALL, "gradient.mode=tail", "gradient.k=2"],
    "window 1, reuse every second": [*_SMALL, "rollout.reuse={every: 2}"],
    "window 1, compiled blocks": [*_SMALL, "train.compile=true"],
}
"""Name -> overrides of the spec."""
LARGE: dict[str, list[str]] = {"window 1, bf16": [*_SMALL, "sampler.steps=3", "train.steps=1"]}


def spec(weights: str, *, dry: bool, output: Path) -> dict[str, Any]:
    """A spec of a random Wan.

    Args:
        weights: a published configuration, by name or folder.
        dry: at toy size, with the embedded model's configuration.
        output: folder of the run.
    """
    name = f"{HERE / 'random_weights.py'}:RandomWan"
    backbone: Any = {"name": name, "options": {"weights": weights}, "adapter": {"rank": 16}}
    if dry:
        backbone = {"name": "shapes", "adapter": {"rank": 4}}
    return {**_BASE, **(DRY if dry else REAL), "backbone": backbone, "output": str(output)}
