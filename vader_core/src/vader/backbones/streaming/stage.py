"""One link of a chain, and what goes through it."""

from __future__ import annotations

from torch import Tensor, nn

Flow = tuple[Tensor, ...]
"""What goes from stage to stage: the hidden state ``(b c f h w)``, then what later stages take up again."""

Context = tuple[Tensor, ...]
"""What a stage keeps of the chunks before; empty at the start."""

EVERYTHING = -1
"""The depth of a stage that sees all earlier frames."""


class Stage(nn.Module):
    """One link of the chain. It holds modules of the autoencoder, and no parameter of its own.

    Class attributes, or set in a constructor:
        depth: how many frames before its own an output frame depends on; :data:`EVERYTHING` for all.
        whole: it also depends on all frames of the chunk, such as by a norm over time.
        rate: frames out for a frame in; the clip's first frame always stays one.
        space: cells out for a cell in, in height and width.
        margin: neighbouring cells, counted after upsampling, that an output cell depends on at each side; None for all.
    """

    depth: int = 0
    whole: bool = False
    rate: int = 1
    space: int = 1
    margin: int | None = 0

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """One chunk.

        Args:
            flow: of the stage before.
            context: of the chunk before; empty if it was not computed, or does not matter.
            first: it is the clip's first chunk.

        Returns:
            The flow for the next stage, and the context for the next chunk.
        """
        raise NotImplementedError

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """The context alone, where the chunk's own output is not needed."""
        return ()
