"""Packs what a bare CUDA machine lacks, as wheels: ``python -m benchmarks.gpu.pack FOLDER``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
LACKING = ("diffusers", "pydantic", "pydantic_core", "annotated-types", "typing-inspection", "open_clip_torch", "ftfy")
"""What a machine with torch, transformers, accelerate, peft, safetensors, typer, rich, scipy and pytest lacks."""
OURS = ("vader_core", "plugins/vader_diffusers", "plugins/vader_shapes", "plugins/vader_rewards")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LIMIT = 60 * 2**20


def main(python: str = "3.12") -> None:
    """Write the wheels, and check their size."""
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    target = [part for name in PLATFORMS for part in ("--platform", name)]
    wanted = [f"{name}=={version(name)}" for name in LACKING]
    download = [*pip, "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", python, *target]
    subprocess.run([*download, "-d", str(folder), *wanted], check=True)
    paths = [str(ROOT / path) for path in OURS]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), *paths], check=True)
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    if size > LIMIT:
        raise SystemExit(f"the wheels take {size:,} bytes; expected at most {LIMIT:,}.")
    print(f"{len(list(folder.glob('*.whl')))} wheels, {size:,} bytes, in {folder}")


if __name__ == "__main__":
    main()
