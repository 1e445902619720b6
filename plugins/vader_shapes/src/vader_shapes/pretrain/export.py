"""Writes the trained parts into the package: safetensors in half precision (they are loaded as float32)."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

from diffusers import WanPipeline


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
