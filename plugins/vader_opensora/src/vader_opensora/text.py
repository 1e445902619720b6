"""Prompts as Open-Sora 1.2 was trained on them: scores appended, then cleaned."""

from __future__ import annotations

import functools
import re
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import PixArtSigmaPipeline

_TIMELINE = re.compile(r"\|(\d+)\|")


def append_scores(
    prompt: str, aesthetic: float | None = None, motion: float | None = None, camera: str | None = None
) -> str:
    """A prompt with the scores appended that it does not have yet.

    Args:
        prompt: any text.
        aesthetic: wanted aesthetic score, about 4 to 7.
        motion: wanted amount of motion (optical flow).
        camera: wanted camera motion, such as "pan right".
    """
    wanted = {
        "aesthetic score": aesthetic if aesthetic is None else f"{aesthetic:.1f}",
        "motion score": motion if motion is None else f"{motion:.1f}",
        "camera motion": camera,
    }
    for name, value in wanted.items():
        if value is not None and f"{name}:" not in prompt:
            prompt = f"{prompt} {name}: {value}."
    return prompt


def clean(prompt: str) -> str:
    """A prompt in lower case without markup, addresses, file names, numbers of articles and odd punctuation.

    Source: the caption cleaning of DeepFloyd IF, done twice; the code that runs is diffusers' copy of it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BeautifulSoup's, of prompts that look like a file or an address
        for _ in range(2):
            prompt = _cleaner()._clean_caption(prompt)
    return prompt


@functools.cache
def _cleaner() -> PixArtSigmaPipeline:
    """A pipeline without its parts: cleaning is a method that uses none."""
    from diffusers import PixArtSigmaPipeline

    return PixArtSigmaPipeline.__new__(PixArtSigmaPipeline)


def at_loop(prompt: str, loop: int = 1) -> str:
    """The text that a timeline ``|0| first text |1| second text`` has at a loop; another prompt as it is.

    Open-Sora makes long clips loop by loop. VADER-Open-Sora makes one clip, with the text of loop 1, and so is it here.
    """
    if not prompt.startswith("|0|"):
        return prompt
    parts = _TIMELINE.split(prompt)[1:]
    texts = {int(start): text.strip() for start, text in zip(parts[::2], parts[1::2], strict=True)}
    return texts[max(start for start in texts if start <= loop)]


def prepare(prompt: str, aesthetic: float | None, motion: float | None, camera: str | None) -> str:
    """What the text encoder gets for a user's prompt. Args as in :func:`append_scores`."""
    return clean(append_scores(at_loop(prompt), aesthetic, motion, camera))
