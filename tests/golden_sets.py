"""Golden sets as the tests read them: tensors, facts, and the folders in the published layouts beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class GoldenSet:
    """One set.

    Args:
        name: of its files, such as ``imagereward_a``.
        facts: of its JSON file.
        tensors: floats in float32, whole numbers in int64; pixels stay bytes.
    """

    name: str
    facts: dict
    tensors: dict[str, torch.Tensor]

    @classmethod
    def read(cls, name: str) -> GoldenSet:
        facts = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
        tensors = load_file(GOLDEN / f"{name}.safetensors")
        kinds = {torch.float16: torch.float32, torch.int32: torch.int64}
        return cls(
            name, facts, {key: tensor.to(kinds.get(tensor.dtype, tensor.dtype)) for key, tensor in tensors.items()}
        )

    def folder(self, part: str) -> Path:
        """A folder in the published layout: ``ckpt`` or ``base``."""
        return GOLDEN / f"{self.name}_{part}"

    def frames(self, key: str) -> torch.Tensor:
        """Recorded bytes as frames in [0, 1] that ask for a gradient."""
        return (self.tensors[key].float() / 255).requires_grad_()


def distance(found: torch.Tensor, record: torch.Tensor) -> float:
    """Relative difference of two gradients, by their norms."""
    return float((found - record).norm() / record.norm())
