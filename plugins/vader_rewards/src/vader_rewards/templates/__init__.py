"""What the judges on Qwen2-VL are asked, word for word as they were trained; licences in LICENSES."""

from __future__ import annotations

from importlib.resources import files


def ask(name: str, prompt: str) -> str:
    """The question about one prompt.

    Args:
        name: of the reward.
        prompt: its place is ``{text_prompt}``.
    """
    return (files(__name__) / f"{name}.txt").read_bytes().decode("utf-8").replace("{text_prompt}", prompt)
