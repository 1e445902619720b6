"""Trains in two processes that share one start-up: ``python forked_run.py SPEC.yaml``.

Imports are slow, so one process imports everything and forks the two. It never back-propagates itself: autograd does
not survive a fork after that.
"""

import sys

import peft  # noqa: F401  (what follows would be imported by each of the two again)
import torch
from accelerate import debug_launcher
from diffusers import AutoencoderKL, UNet3DConditionModel  # noqa: F401
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

import vader.runs.training


def train(spec):
    """One of the two."""
    torch.set_num_threads(1)
    vader.train(spec, trust_code=True)


if __name__ == "__main__":
    debug_launcher(train, (sys.argv[1],), num_processes=2)
