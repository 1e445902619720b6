"""What adapters are called: peft's name of ours, the files of each layout, the prefixes of tensor names."""

from __future__ import annotations

NAME = "default"
"""What peft calls the one adapter that a denoiser carries."""
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_PREFIX = "base_model.model."
METADATA = "lora_adapter_metadata"
"""Key of a file's metadata that holds peft's configuration."""
_PREFIXES = (PEFT_PREFIX, "transformer.", "unet.", "diffusion_model.")


def plain(name: str) -> str:
    """A tensor's name without the prefix of the layout that it was saved in."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
