"""A causal decoder as a chain of stages: chunk by chunk in time, each stage recomputed in backward.

The clip's latent frames are cut into chunks. A chunk goes through the stages in order; what a stage keeps of earlier
chunks (its context: the frames before the chunk that its convolution sees) is an explicit input and output. So

* nothing is held but what goes in and out of stages, and in backward the inside of one stage;
* a stage runs on a chunk only if a wanted frame depends on it: near the pixels that is a few frames, however long the
  clip is, and what is left out has neither an influence on the pixels nor a gradient;
* where the window of a :class:`vader.DecodePlan` ends, contexts come without gradient, and nothing is held for them
  (truncated as in ChopGrad's backpropagation through a causal cache); they are computed once.

With tiles, the stages from the first spatial upsampling on run on one part of the picture at a time, with as many
neighbouring cells as its pixels depend on, so that pixels and gradients are those of the whole.
"""

from __future__ import annotations

from vader.backbones.streaming.chain import Chain as Chain
from vader.backbones.streaming.chunks import chunk_bounds as chunk_bounds
from vader.backbones.streaming.recompute import frame_by_frame as frame_by_frame
from vader.backbones.streaming.recompute import through as through
from vader.backbones.streaming.stage import EVERYTHING as EVERYTHING
from vader.backbones.streaming.stage import Context as Context
from vader.backbones.streaming.stage import Flow as Flow
from vader.backbones.streaming.stage import Stage as Stage
