"""Rewards of the core: a network over latents, made of the backbone's own denoiser."""
