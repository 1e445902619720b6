"""What adapters are called: peft's name of ours, and the files of each layout."""

from __future__ import annotations

NAME = "default"
"""What peft calls the one adapter that a denoiser carries."""
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
DIFFUSERS_FILE_2 = "pytorch_lora_weights_2.safetensors"
"""Of a pipeline's second denoiser: ``load_lora_weights(..., weight_name=..., load_into_transformer_2=True)``."""
PEFT_PREFIX = "base_model.model."
METADATA = "lora_adapter_metadata"
"""Key of a file's metadata that holds peft's configuration."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""Ends of the plain names of a layer's two factors: ``output += alpha / rank * up(down(input))``."""
