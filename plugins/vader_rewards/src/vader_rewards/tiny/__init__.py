"""Writes tiny networks with random weights for every reward whose own are large: real classes and layouts, toy sizes.

For tests, and for trying a spec before gigabytes are downloaded::

    python -m vader_rewards.tiny FOLDER

Then ``weights: FOLDER/clip`` and ``head: FOLDER/head.safetensors`` for aesthetic, compression and weather,
``FOLDER/image_reward``, ``FOLDER/video_reward`` and ``FOLDER/hpsv3`` (this one with ``base: FOLDER/qwen2_vl``) for
imagereward, videoreward and hpsv3, ``FOLDER/open_clip`` for hps (``weights``) and clip_text (``model``),
``FOLDER/clip`` for pickscore (and its ``tokenizer``), and ``FOLDER/yolos``, ``grounding_dino``, ``videomae``,
``vjepa``, ``qwen2_vl`` (for vlm_question), ``xclip`` (video_text), ``dinov2`` (image_fidelity). Their scores mean
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vader_rewards.tiny import image_text, judges, vision


def write(folder: str | Path, seed: int = 0) -> Path:
    """Write all of them, a few megabytes.

    Args:
        folder: created if it is not there; files of the same names are overwritten.
        seed: of the random weights; the global random state is left as it was.
    """
    import torch

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    for name, save in WRITERS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save(root / name)
    return root


WRITERS: dict[str, Callable[[Path], None]] = {
    "clip": image_text.clip,
    "open_clip": image_text.open_clip,
    "head.safetensors": vision.head,
    "yolos": vision.yolos,
    "grounding_dino": vision.grounding_dino,
    "videomae": vision.videomae,
    "vjepa": vision.vjepa,
    "image_reward": image_text.image_reward,
    "qwen2_vl": judges.qwen2_vl,
    "video_reward": judges.video_reward,
    "hpsv3": judges.hpsv3,
    "xclip": image_text.xclip,
    "dinov2": vision.dinov2,
}
"""Name in the folder -> what writes it, in this order: the judges need ``qwen2_vl``."""
