"""Writes the trained parts into the package: safetensors in half precision (they are loaded as float32)."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from diffusers import WanPipeline
from safetensors.torch import save_file
from torch import Tensor


def export_pipeline(pipeline: WanPipeline, folder: Path) -> Path:
    """Saves `pipeline` as a diffusers pipeline folder in float16, replacing `folder` only when all is written."""
    temporary, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    shutil.rmtree(temporary, ignore_errors=True)
    half = WanPipeline(
        tokenizer=pipeline.tokenizer,
        text_encoder=copy.deepcopy(pipeline.text_encoder).half(),
        vae=copy.deepcopy(pipeline.vae).half(),
        scheduler=pipeline.scheduler,
        transformer=copy.deepcopy(pipeline.transformer).half(),
    )
    half.save_pretrained(temporary, safe_serialization=True)
    for path in temporary.rglob("config.json"):  # diffusers notes the folder that a part was loaded from
        config = {name: value for name, value in json.loads(path.read_text()).items() if name != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def export_weights(values: Mapping[str, Tensor], path: Path) -> Path:
    """Writes one network's weights in float16, replacing what was there when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    half = {name: value.half().contiguous() for name, value in values.items()}
    save_file(half, temporary, metadata={"format": "pt"})
    temporary.replace(path)
    return path
