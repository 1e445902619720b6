"""Rewards for vader, each differentiable to the pixels, each importable alone; and prompts to go with them."""
