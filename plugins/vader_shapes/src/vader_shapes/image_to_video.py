"""The embedded tiny Wan as an image-to-video model: the first latent frame is held, as Wan 2.2 TI2V-5B holds it.

It was trained on text alone. Held to a clean first frame it goes on from it, and where text and image contradict each
other it follows the text: an adapter can learn to follow the image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from vader import sdk
from vader_diffusers.wan22_ti2v import Wan22TI2V
from vader_shapes.backbone import Shapes


class ShapesI2V(Shapes):
    """Clips of the shapes world from a prompt, or from a prompt and the image that the clip begins with."""

    takes_image: ClassVar[sdk.TakesImage] = "optional"
    family = replace(Shapes.family, images=Wan22TI2V.family.images, predict=Wan22TI2V.family.predict)
