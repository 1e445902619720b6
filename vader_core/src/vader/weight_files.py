"""Judging weight files on disk, for backbones that read a folder in diffusers' layout."""

from __future__ import annotations

from pathlib import Path

from vader.errors import WeightsError


def first_line(error: Exception) -> str:
    """What an error of a library says, in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def check_safetensors(folder: Path, name: str, fix: str) -> None:
    """Every safetensors file of a part is whole. Headers are read, no weight is.

    Args:
        folder: of the part.
        name: what the user calls the weights, for the message.
        fix: what to do when the folder holds none.

    Raises:
        WeightsError: there is none, or one is truncated or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        held = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise WeightsError(f"{name}: {folder.name} holds no .safetensors file, only {held}. {fix}")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{name}: {folder.name}/{file.name} ({file.stat().st_size:,} bytes) is truncated or not a safetensors "
                f"file: {first_line(error)}. Delete it and fetch it again with `hf download`."
            ) from error
