"""Converts a published checkpoint to safetensors, under the published names.

It needs no pickle, other tools can read it, and it is half the size in float16::

    python -m vader_videocrafter.convert model.ckpt model.safetensors --dtype float16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vader import VaderError, WeightsError

DTYPES = ("float32", "float16", "bfloat16")


def convert(source: Path, target: Path, dtype: str | None = None) -> int:
    """Convert a checkpoint; it is judged first.

    Args:
        source: as published, or converted.
        target: a ``.safetensors`` file, written under a temporary name first.
        dtype: of the networks' weights, one of :data:`DTYPES`; None leaves each as it is. The noise schedule and the
            first stage, which run in float32, stay in it.

    Returns:
        How many tensors were written.

    Raises:
        vader.WeightsError: the source is no text-to-video checkpoint, or the target's name ends otherwise.
    """
    import torch
    from safetensors.torch import save_file

    from vader import weight_files
    from vader_videocrafter import checkpoint, layout, weights

    if target.suffix.lower() != weight_files.SAFETENSORS:
        raise WeightsError(f"cannot write {target}; expected a name that ends in {weight_files.SAFETENSORS}.")
    stored = checkpoint.open_checkpoint(source, str(source))
    sizes = layout.read(stored.shapes, str(source))
    weights.checked(stored.shapes, sizes, str(source))
    kind = getattr(torch, dtype) if dtype is not None else None

    def wanted(name: str) -> torch.Tensor:
        tensor = stored.read(name)
        narrow = kind is not None and name.startswith((layout.UNET, layout.TEXT))
        return (tensor.to(kind) if narrow else tensor).contiguous()

    temporary = target.with_name(f".{target.name}.partial")
    save_file({name: wanted(name) for name in stored.shapes}, temporary, {"format": "pt"})
    temporary.replace(target)
    return len(stored.shapes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m vader_videocrafter.convert", description="Convert a checkpoint.")
    parser.add_argument("source", type=Path, help="model.ckpt")
    parser.add_argument("target", type=Path, help="model.safetensors")
    parser.add_argument("--dtype", choices=DTYPES, help="of denoiser and text encoder; as it is when left out")
    given = parser.parse_args(arguments)
    try:
        count = convert(given.source, given.target, given.dtype)
    except VaderError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {count} tensors to {given.target} ({given.target.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
