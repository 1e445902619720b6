"""Files of weights, on disk and on the hub: found, fetched and judged. Every way they can fail is one error.

Nothing here imports torch before a file is opened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vader.errors import WeightsError

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of what ``torch.save`` writes."""
SAFETENSORS = ".safetensors"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_GLOBAL = re.compile(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)")
_ADVICE = ("weights_only", "add_safe_globals", "arbitrary code", "safe_globals")
"""What the library says where it advises to run what a file holds."""
_SHOWN = 3


def first_line(error: Exception) -> str:
    """What an error of a library says, in short and without its advice to run what a file holds."""
    text = str(error)
    if "trust_remote_code" in text:
        return "it asks to run code of its own, which is never done"
    inner = text.rpartition("WeightsUnpickler error: ")[2] if "Weights only" in text else text
    said = (inner.strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return "torch cannot read it" if any(word in said for word in _ADVICE) else said


def shown(names: Sequence[str]) -> str:
    """The first names of a list, in brackets after a space; nothing for an empty one."""
    return f" ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})" if names else ""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/name`` of a repository on the hub."""
    return _HUB_ID.fullmatch(name) is not None


def hub_folder(name: str, patterns: Sequence[str], revision: str | None = None, *, cached: bool = False) -> Path:
    """The local folder of a hub repository: those of its files that match, downloaded or from the hub's cache.

    Args:
        name: ``owner/name``.
        patterns: of the files wanted, such as ``*.json``.
        revision: branch, tag or commit; None for main.
        cached: look in the cache alone.

    Raises:
        WeightsError: the hub does not give it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=cached))
    except Exception as error:  # the hub client's own errors and its transport's have no public base in common
        raise not_given(name, "", revision, error) from error


def hub_file(name: str, file: str, revision: str | None = None, *, cached: bool = False) -> Path:
    """One file of a hub repository; see :func:`hub_folder`.

    Raises:
        WeightsError: the hub does not give it.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=cached))
    except Exception as error:  # as above
        raise not_given(name, file, revision, error) from error


def hub_listing(name: str, *, cached: bool = False) -> list[str]:
    """The files of a hub repository; of the cache's copy where the hub is out of reach.

    Args:
        name: ``owner/name``.
        cached: ask the cache alone.

    Raises:
        WeightsError: neither has it.
    """
    from huggingface_hub import HfApi

    try:
        if not cached:
            return HfApi().list_repo_files(name)
    except Exception as error:  # as above
        try:
            return hub_listing(name, cached=True)
        except WeightsError:
            raise not_given(name, "", None, error) from error
    folder = hub_folder(name, [], cached=True)
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def not_given(name: str, file: str, revision: str | None, error: Exception) -> WeightsError:
    """The error for what the hub does not give: the repository, the file wanted, the cause and what to do."""
    at = f" at revision {revision!r}" if revision else ""
    words = ["hf download", name, file, f"--revision {revision}" if revision else ""]
    command = " ".join(filter(None, words))
    return WeightsError(
        f"{name} is nothing on this disk, and the hub did not give {f'its {file}' if file else 'it'}{at}: "
        f"{first_line(error)}. Check the name and the connection; without one, run `{command}` where there is, or name "
        "a local file or folder. With HF_HUB_OFFLINE=1 only what is in the hub's cache is found."
    )


def check_safetensors(folder: Path, name: str, fix: str) -> list[Path]:
    """The safetensors files of a part, every one of them whole. Headers are read, no weight is.

    Args:
        folder: of the part.
        name: what the user calls the weights, for the message.
        fix: what to do when the folder holds none.

    Raises:
        WeightsError: there is none, or one is truncated or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob(f"*{SAFETENSORS}"))
    if not files:
        held = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise WeightsError(f"{name}: {folder.name} holds no .safetensors file, only {held}. {fix}")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise unreadable(file, f"{name}: {folder.name}/{file.name}", "a safetensors file", error, fix) from error
    return files


def load_pickled(path: Path, name: str, fix: str, *, mapped: bool = False) -> Any:
    """What ``torch.save`` has put in a file, on the CPU, read with ``weights_only``.

    Args:
        path: the file.
        name: what the user calls it, for errors.
        fix: what to do when it cannot be read.
        mapped: leave the tensors in the file until they are used.

    Raises:
        WeightsError: there is no such file, it holds code, or it cannot be read.
    """
    import torch

    if not path.is_file():
        raise WeightsError(f"{name}: there is no such file. {fix}")
    try:
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # foreign bytes make the unpickler fail in any way: KeyError, EOFError, ...
        raise unreadable(path, name, "a file of torch.save", error, fix) from error


def unreadable(path: Path, name: str, kind: str, error: Exception, fix: str = "") -> WeightsError:
    """The error for a file that cannot be opened as what it should be.

    Args:
        path: the file.
        name: what the user calls it.
        kind: what it should be.
        error: what the library says.
        fix: what to do about it besides.
    """
    found = _GLOBAL.search(str(error))
    if found or "TorchScript" in str(error):
        what = found[1] if found else "a TorchScript program"
        return WeightsError(
            f"{name} holds more than tensors and plain values ({what}), and is not opened, because that could run "
            "code. Save its state_dict alone with torch.save."
        )
    size = f" ({path.stat().st_size:,} bytes)" if path.is_file() else ""
    what = f"{name}{size} is truncated or not {kind}: {first_line(error)}."
    return WeightsError(f"{what} Delete it and fetch it again. {fix}".rstrip())
