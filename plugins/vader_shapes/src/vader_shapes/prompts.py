"""Prompts of the shapes world."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from vader import Options, Prompt
from vader.sdk import draw_evenly, user_path

if TYPE_CHECKING:
    from torch import Tensor

Shown = tuple[Prompt, Callable[[], "Tensor"]]
"""A prompt, and what renders a clip of it, ``(f c h w)``."""


class ShapesPromptsOptions(Options):
    """Options of :class:`ShapesPrompts`."""

    world: Literal["one", "scenes"] = Field(
        "scenes",
        description="Scenes of up to three objects with sizes, speeds, numbers and relations, or of one alone.",
    )
    split: Literal["train", "held_out", "all"] = Field(
        "train", description="Combinations that the base model was trained on, those it never saw, or all."
    )
    kinds: list[Literal["one", "single", "count", "relation", "passing"]] = Field(
        ["one", "single", "count", "relation", "passing"],
        min_length=1,
        description="Kinds of scenes that are drawn; of the world of one object alone there is only the first.",
    )
    images: str | None = Field(
        None,
        min_length=1,
        description="Folder for the first frame of a clip of each prompt, written there and given as the prompt's "
        "image, for image-to-video. Null: no images.",
    )

    @model_validator(mode="after")
    def _check(self) -> ShapesPromptsOptions:
        if self.world == "one" and len(set(self.kinds)) < 5:
            message = f"kinds {self.kinds}: the world of one object has one kind only; drop kinds, or set world: scenes"
            raise ValueError(message)
        return self


class ShapesPrompts:
    """Draws prompts of the shapes world, with their attributes as metadata, and with images if so asked."""

    Options = ShapesPromptsOptions

    def __init__(self, options: ShapesPromptsOptions) -> None:
        shown = _one(options.split) if options.world == "one" else _scenes(options.split, options.kinds)
        self._prompts = [prompt for prompt, _ in shown]
        if options.images is not None:
            images = first_frames(shown, user_path(options.images))
            self._prompts = [replace(one, image=image) for one, image in zip(self._prompts, images, strict=True)]

    def held(self) -> list[Prompt]:
        """See :class:`vader.sdk.HoldsPrompts`."""
        return self._prompts

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.PromptSource`."""
        return draw_evenly(self._prompts, n, rng)


def _one(split: str) -> list[Shown]:
    """Prompts of the world of one object."""
    import torch

    from vader_shapes import world

    every = world.all_combinations()
    wanted = {"train": world.train_combinations, "held_out": world.held_out_combinations, "all": lambda: every}[split]()
    return [
        (
            Prompt(world.prompt(one), vars(one)),
            lambda one=one: world.render(one, torch.Generator().manual_seed(every.index(one))),
        )
        for one in wanted
    ]


def _scenes(split: str, kinds: Sequence[str]) -> list[Shown]:
    """Prompts of the scenes of some kinds, as many of each in turn."""
    import torch

    from vader_shapes.scenes import grammar, renderer, splits

    splitters = {"train": [splits.train_split], "held_out": [splits.held_out_split]}
    splitters["all"] = splitters["train"] + splitters["held_out"]
    wanted = [scene for of_kind in splitters[split] for scene in splits.in_turn(of_kind) if scene.kind in kinds]
    return [
        (
            Prompt(grammar.prompt(scene), {"kind": scene.kind, "motion": scene.motion, "background": scene.background}),
            lambda scene=scene, seed=seed: renderer.render(scene, torch.Generator().manual_seed(seed)),
        )
        for seed, scene in enumerate(wanted)
    ]


def first_frames(shown: Sequence[Shown], folder: Path) -> list[Path]:
    """Pictures of the first frames of clips, the same at every call.

    Raises:
        ValueError: they cannot be written.
    """
    from PIL import Image

    from vader.sdk import to_uint8

    found = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for prompt, render in shown:
            path = folder / f"{_stem(prompt)}.png"
            if not path.is_file():
                Image.fromarray(to_uint8(render()[0])).save(path)
            found.append(path)
    except OSError as error:
        raise ValueError(f"cannot write pictures to {str(folder)!r}: {error.strerror}. Give another folder.") from error
    return found


def _stem(prompt: Prompt) -> str:
    """The name of its picture."""
    return "-".join(prompt.metadata.values()) if "kind" not in prompt.metadata else prompt.text.replace(" ", "-")
