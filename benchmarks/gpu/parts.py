"""The parts of the benchmark, each run as a process of its own: ``python -m benchmarks.gpu.parts NAME FOLDER [--dry]``.

A part prints one JSON object on its last line.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu import cases

PUBLISHED = Path(__file__).parents[2] / "plugins/vader_diffusers/src/vader_diffusers/published/wan2.1-1.3b"
LARGE = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
"""What the 14B model's transformer has otherwise. Source: diffusers' ``scripts/convert_wan_to_diffusers.py``."""


def configuration(folder: Path, size: str) -> Path:
    """The configurations of Wan 2.1 as a pipeline folder without weights: ``1.3b`` or ``14b``."""
    target = folder / f"wan-{size}"
    if not target.is_dir():
        shutil.copytree(PUBLISHED, target)
        if size == "14b":
            file = target / "transformer" / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **LARGE}))
    return target


def facts() -> dict[str, Any]:
    """The machine and the versions."""
    import platform

    from vader.runs.environment import versions

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": versions(),
        "cpus": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return found


def tests(folder: Path, dry: bool) -> dict[str, Any]:
    """The tests marked ``cuda``: scaler, bf16, generators, copies, compile, and gradients against the CPU's."""
    import pytest

    if dry and not torch.cuda.is_available():
        return {"skipped": "no CUDA device"}
    report = folder / "cuda-tests.txt"
    with report.open("w") as file:
        before, sys.stdout = sys.stdout, file
        try:
            code = pytest.main(["-q", "-m", "cuda", "-p", "no:cacheprovider", "tests/cuda"])
        finally:
            sys.stdout = before
    return {"exit_code": int(code), "said": report.read_text().splitlines()[-12:]}


def steps(folder: Path, size: str, variants: dict[str, list[str]], dry: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Optimizer steps of each variant: seconds by phase of the last one, and the most bytes allocated."""
    import vader

    weights = configuration(folder, size)
    for name, overrides in list(variants.items())[: 2 if dry else None]:
        output = folder / f"run-{size}-{name.replace(' ', '-')}"
        shutil.rmtree(output, ignore_errors=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            result = vader.train(cases.spec(str(weights), dry=dry, output=output), overrides)
            shown = {key: value for key, value in result.metrics.items() if key.startswith(("time/", "memory/"))}
            yield name, {**shown, "loss": result.metrics["loss"], "wall": time.perf_counter() - start}
        except Exception as error:  # an option this machine lacks, or no room: said, and the others go on
            yield name, {"error": f"{type(error).__name__}: {error}".splitlines()[0][:400]}


def small(folder: Path, dry: bool) -> dict[str, Any]:
    """Wan 1.3B at 480 x 832, 81 frames, K 1, and what each option does."""
    return dict(steps(folder, "1.3b", cases.VARIANTS, dry))


def large(folder: Path, dry: bool) -> dict[str, Any]:
    """Wan 14B at 480 x 832, 81 frames, K 1."""
    return dict(steps(folder, "14b", cases.LARGE, dry))


def estimates(folder: Path, dry: bool) -> dict[str, Any]:
    """What ``vader estimate`` says of the same specs. It needs no GPU."""
    from vader.estimation import estimate

    found: dict[str, Any] = {}
    for size, variants in (("1.3b", cases.VARIANTS), ("14b", cases.LARGE)):
        weights = configuration(folder, size)
        for name, overrides in list(variants.items())[: 2 if dry else None]:
            try:
                made = estimate(cases.spec(str(weights), dry=dry, output=folder / "none"), overrides, "cuda")
                found[f"{size} {name}"] = {"total": made.total, "phase": made.decisive.peak.phase}
            except Exception as error:
                found[f"{size} {name}"] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:400]}
    return found


PARTS = {"tests": tests, "estimates": estimates, "1.3b": small, "14b": large}
"""Name -> part."""


def main() -> None:
    """One part."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(PARTS[name](folder, "--dry" in sys.argv)))


if __name__ == "__main__":
    main()
