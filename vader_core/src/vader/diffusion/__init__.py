"""The maths of denoising: rollout, guidance, gradient windows, samplers."""
