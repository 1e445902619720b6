"""Writes a tiny Open-Sora with random weights: the real classes and file layout at toy sizes.

For tests, and for trying a spec before gigabytes are downloaded::

    python -m vader_opensora.tiny FOLDER

Its pictures mean nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

DENOISER: Mapping[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "caption_channels": 16,
    "model_max_length": 64,
}
SPATIAL: Mapping[str, Any] = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
TEMPORAL: Mapping[str, Any] = {"filters": 8, "num_res_blocks": 1, "num_groups": 4}


def write(folder: str | Path, seed: int = 0) -> Path:
    """Write ``denoiser``, ``vae`` and ``text_encoder``, about two megabytes in all.

    Args:
        folder: created if it is not there; files of the same names are overwritten.
        seed: of the random weights; the global random state is left as it was.
    """
    import torch
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    from vader_opensora.stdit3 import STDiT3
    from vader_opensora.vae import SPATIAL as REAL
    from vader_opensora.vae import OpenSoraVAE

    target, tokenizer = Path(folder), ByT5Tokenizer()  # one token a byte: it needs no vocabulary
    text = T5Config(
        vocab_size=len(tokenizer), d_model=DENOISER["caption_channels"], d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser, vae = STDiT3(**DENOISER), OpenSoraVAE({**REAL, **SPATIAL}, TEMPORAL)
        text_encoder = T5EncoderModel(text)
    save(denoiser, target / "denoiser", {"model_type": "STDiT3", **DENOISER})
    sizes = {"spatial": SPATIAL, "temporal": TEMPORAL}
    save(vae, target / "vae", {"model_type": "VideoAutoencoderPipeline", "micro_frame_size": 17, **sizes})
    text_encoder.save_pretrained(target / "text_encoder")
    tokenizer.save_pretrained(target / "text_encoder")
    return target


def save(module: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    """Write one part as the published ones are: ``config.json`` and ``model.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line: ``python -m vader_opensora.tiny FOLDER``."""
    parser = argparse.ArgumentParser(prog="python -m vader_opensora.tiny", description="Write a tiny random Open-Sora.")
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    arguments = parser.parse_args()
    print(f"wrote {write(arguments.folder, arguments.seed)}")


if __name__ == "__main__":
    main()
