"""How often rewards are asked."""

from __future__ import annotations


class QueryCounter:
    """Clips that were scored since the last :meth:`read`.

    A clip scored by several rewards, or by one for two phrases (:mod:`vader.methods.contrast`), counts once; one that
    is scored anew from other latents counts anew. Where rewards of both kinds score a clip, its frames are counted.
    """

    def __init__(self) -> None:
        self._clips = 0

    def count(self, clips: int) -> None:
        """So many more were scored."""
        self._clips += clips

    def read(self) -> int:
        """Clips scored; starts anew."""
        clips, self._clips = self._clips, 0
        return clips
