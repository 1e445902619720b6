"""Rewards for the tests of isolation, named by this file: run in this process and in another, they must agree."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

import vader

if TYPE_CHECKING:
    from torch import Tensor


class Network:
    """A small random network; depends on the prompt's length."""

    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    class Options(vader.Options):
        """Options of :class:`Network`."""

        seed: int = Field(0, ge=0, description="Seed of the weights.")

    def __init__(self, options: Any, runtime: vader.Runtime) -> None:
        import torch
        from torch import nn

        generator = torch.Generator().manual_seed(options.seed)
        self.net = nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.net.requires_grad_(False).eval().to(runtime.device, runtime.dtype)

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        import torch

        seen = torch.sin(self.net(frames.to(self.net.weight.dtype).flatten(0, 1))).unflatten(0, frames.shape[:2])
        lengths = torch.tensor([len(prompt.text) + prompt.metadata.get("more", 0) for prompt in prompts])
        return seen.mean(dim=(1, 2, 3, 4)) * lengths


def redness(frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
    """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
    return frames[:, :, 0].mean(dim=(1, 2, 3))


class Detached:
    """No gradient, and it says so."""

    differentiable: ClassVar[bool] = False

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return frames.detach().amax(dim=(1, 2, 3, 4))


class Misbehaving:
    """Does what the first prompt says."""

    def __init__(self, runtime: vader.Runtime) -> None:
        print("loaded", flush=True)

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        order = prompts[0].text
        if order == "die":
            print("about to die", flush=True)
            os._exit(3)
        if order == "hang":
            print("about to hang", flush=True)
            time.sleep(600)
        if order == "raise":
            raise ValueError("not today")
        if order == "weights":
            raise vader.WeightsError("x.safetensors is missing.")
        return frames.mean(dim=(1, 2, 3, 4))


class Parent:
    """Starts a process of its own when it is built, and writes both process ids to a file."""

    class Options(vader.Options):
        """Options of :class:`Parent`."""

        pids: str = Field(description="The file.")

    def __init__(self, options: Any) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(options.pids).write_text(f"{os.getpid()} {child.pid}")

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return frames.mean(dim=(1, 2, 3, 4))


class Halves:
    """Two scores by name, and the one that counts."""

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> dict[str, Tensor]:
        half = frames.shape[-1] // 2
        left, right = (part.square().mean((1, 2, 3, 4)) for part in (frames[..., :half], frames[..., half:]))
        return {"score": left + 2 * right, "left": left, "right": right}
