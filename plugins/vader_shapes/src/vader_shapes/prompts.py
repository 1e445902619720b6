"""Prompts of the shapes world."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from vader import Options, Prompt
from vader.sdk import draw_evenly, user_path

if TYPE_CHECKING:
    from vader_shapes.world import Attributes


class ShapesPromptsOptions(Options):
    """Options of :class:`ShapesPrompts`."""

    split: Literal["train", "held_out", "all"] = Field(
        "train", description="Attribute combinations that the base model was trained on, those it never saw, or all."
    )
    images: str | None = Field(
        None,
        min_length=1,
        description="Folder for the first frame of a clip of each prompt, written there and given as the prompt's "
        "image, for image-to-video. Null: no images.",
    )


class ShapesPrompts:
    """Draws prompts of the shapes world, with their attributes as metadata, and with images if so asked."""

    Options = ShapesPromptsOptions

    def __init__(self, options: ShapesPromptsOptions) -> None:
        from vader_shapes import world

        splits = {
            "train": world.train_combinations,
            "held_out": world.held_out_combinations,
            "all": world.all_combinations,
        }
        wanted, folder = splits[options.split](), options.images
        images = [None] * len(wanted) if folder is None else first_frames(wanted, user_path(folder))
        self._prompts = [Prompt(world.prompt(one), vars(one), image) for one, image in zip(wanted, images, strict=True)]

    def held(self) -> list[Prompt]:
        """See :class:`vader.sdk.HoldsPrompts`."""
        return self._prompts

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.PromptSource`."""
        return draw_evenly(self._prompts, n, rng)


def first_frames(clips: Sequence[Attributes], folder: Path) -> list[Path]:
    """Pictures of the first frames of clips, the same at every call.

    Raises:
        ValueError: they cannot be written.
    """
    import torch
    from PIL import Image

    from vader.sdk import to_uint8
    from vader_shapes import world

    found = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in clips:
            path = folder / f"{'-'.join(vars(one).values())}.png"
            if not path.is_file():
                frame = world.render(one, torch.Generator().manual_seed(world.all_combinations().index(one)))[0]
                Image.fromarray(to_uint8(frame)).save(path)
            found.append(path)
    except OSError as error:
        raise ValueError(f"cannot write pictures to {str(folder)!r}: {error.strerror}. Give another folder.") from error
    return found
