"""What tables and plots alike read from ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REWARD, ACCURACY = "shapes_alignment", "shapes_accuracy"
"""The reward that is trained on, and the exact accuracy that never is."""


def kl_points(data: Mapping[str, Any]) -> list[tuple[float, Mapping[str, Any], Mapping[str, Any]]]:
    """(weight, variant, its last point), ascending in weight."""
    found = [
        (float(variant["spec"]["method"]["options"]["kl_weight"]), variant, variant["points"][str(data["queries"])])
        for variant in data["variants"].values()
        if variant["kl"]
    ]
    return sorted(found, key=lambda one: one[0])
