"""The reward ``latent``: a network trained by ``vader reward train`` that scores latents, noisy ones too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.spec.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from vader.protocols import Backbone, Conditioning, Runtime
    from vader.rewards.network import LatentNetwork
    from vader.shapes import Latents, Scores
    from vader.weights.meta_init import Place


class LatentOptions(Options):
    """Options of :class:`Latent`."""

    weights: str = Field(min_length=1, description="Folder that `vader reward train` wrote, or a hub id (owner/name).")
    checkpointing: bool = Field(False, description="Recompute its layers in backward: less memory, more time.")


class Latent:
    """Scores latents by the first layers of the backbone's own denoiser, a query attention and an MLP (PRFL).

    It reads the positive branch of the conditioning. Nothing is decoded for it.

    Args:
        options: which weights.
        runtime: the device. The layers have the denoiser's dtypes; the rest is float32.
        backbone: whose latents it scores.

    Raises:
        WeightsError: the weights are missing, truncated, or of another denoiser than the backbone's.
    """

    Options = LatentOptions
    input: ClassVar[str] = "latents"
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: LatentOptions, runtime: Runtime, backbone: Backbone | None = None) -> None:
        from vader.rewards import files

        folder = files.locate(options.weights)
        config = files.read_config(folder)
        owner = files.require_trunk(backbone, options.weights)
        network = build(config, owner, options.weights)
        network.load_state_dict(files.read_weights(folder, network.state_dict()))
        self._take(network.to(runtime.device), owner, options)

    @classmethod
    def meta_init(cls, options: LatentOptions, runtime: Runtime, place: Place, backbone: Backbone) -> Latent:
        """See :class:`vader.protocols.MetaBuildable`."""
        from vader.rewards import files

        config = files.read_config(files.locate(options.weights))
        owner = files.require_trunk(backbone, options.weights)
        reward = cls.__new__(cls)
        reward._take(place(build(config, owner, options.weights, weights=False), runtime.device), owner, options)
        return reward

    def _take(self, network: LatentNetwork, backbone: Any, options: LatentOptions) -> None:
        trunk: Any = network.trunk
        if options.checkpointing:
            trunk.enable_gradient_checkpointing()
        self._network, self._call = network.requires_grad_(False).eval(), backbone.predict

    def score(self, latents: Latents, timestep: Tensor, conditioning: Conditioning) -> Scores:
        """See :class:`vader.protocols.LatentReward`."""
        scores: Scores = self._network(self._call, latents, timestep, conditioning.positive)
        return scores


def build(config: Any, backbone: Any, name: str, *, weights: bool = True) -> LatentNetwork:
    """A network of this configuration: its trunk a copy of the backbone's layers, its head random.

    Args:
        config: a :class:`vader.rewards.files.LatentConfig`.
        backbone: a :class:`vader.protocols.GivesTrunk`.
        name: what the user calls the reward, for errors.
        weights: whether there are any; else it is on the meta device.

    Raises:
        WeightsError: the backbone's denoiser is another than the configuration's.
    """
    import torch

    from vader.rewards.files import require_same_denoiser
    from vader.rewards.network import Head, LatentNetwork

    trunk, last = backbone.trunk(config.layers, weights=weights)
    require_same_denoiser(config, trunk, name)
    with torch.device("cpu" if weights else "meta"):
        head = Head(config.width, config.heads, config.hidden)
    return LatentNetwork(trunk, last, head)
