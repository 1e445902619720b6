"""Odd values and damaged files, drawn by a generator of random numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

ODD = [
    None, True, "x", "", [], {}, {"a": 1}, [[1]], -1, 0, 1e308, -1e308, 10**400, float("nan"), float("inf"), 1e-320,
    "\ud800", "<script>", 10**9, 2**63, "9" * 50, [None], "../../x", "a\0b", {"": {}},
]  # fmt: skip


def odd(value: Any, rng: random.Random) -> Any:
    """A value with one place in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.2:
            value[rng.choice(["step", "scores", "x", "clips", "size", ""])] = value[key]
        else:
            value[key] = odd(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        value[index] = odd(value[index], rng)
        return value
    return rng.choice(ODD)


def damage(path: Path, rng: random.Random) -> None:
    """Change one file of a folder: cut it, flip bytes, take it away, or put odd values in it."""
    held, kind = path.read_bytes(), rng.random()
    structured = path.suffix in (".json", ".jsonl", ".yaml")
    if kind < (0.1 if structured else 0.4):
        path.write_bytes(held[: rng.randrange(len(held) + 1)])
    elif kind < (0.2 if structured else 0.9):
        flipped = bytearray(held)
        for _ in range(3):
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        path.write_bytes(bytes(flipped))
    elif kind < 0.25 or not structured:
        path.unlink()
        if rng.random() < 0.6:
            path.mkdir()
    elif path.suffix == ".jsonl":
        lines = held.splitlines()
        index = rng.randrange(len(lines))
        lines[index] = json.dumps(odd(json.loads(lines[index]), rng)).encode()
        path.write_bytes(b"\n".join(lines))
    else:
        data = json.loads(held) if path.suffix == ".json" else yaml.safe_load(held)
        path.write_text(json.dumps(odd(data, rng)))
