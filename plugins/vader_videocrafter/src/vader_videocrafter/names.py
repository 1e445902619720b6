"""What the published checkpoints call a layer, and what diffusers calls it.

A table pairs layers, so that one table serves weights and adapters, in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator

from vader_videocrafter.layout import TEXT, VAE, Layout, UNetLayout, VAELayout

Pair = tuple[str, str]
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_RESNET = {**{name: name for name in ("norm1", "conv1", "norm2", "conv2")}, "nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TABLE, _OUR_TABLE = ".relative_position_", ".processor.relative_position_"


class Names:
    """Two sets of names for the same layers.

    Args:
        pairs: the published name of a layer and ours, in the published order; both are unique.
    """

    def __init__(self, pairs: list[Pair]) -> None:
        self._ours = dict(pairs)
        self._theirs = {ours: theirs for theirs, ours in pairs}
        self._order = {theirs: place for place, (theirs, _) in enumerate(pairs)}

    def ours(self, name: str) -> str | None:
        """Our name for a published one, of a layer or of something in it; None for a stranger."""
        layer = _layer(name, self._ours)
        return None if layer is None else (self._ours[layer] + name[len(layer) :]).replace(_TABLE, _OUR_TABLE)

    def theirs(self, name: str) -> str | None:
        """The published name for one of ours; None for a stranger."""
        layer = _layer(name, self._theirs)
        return None if layer is None else (self._theirs[layer] + name[len(layer) :]).replace(_OUR_TABLE, _TABLE)

    def place(self, name: str) -> int:
        """Where the layer of a published name comes in the published order."""
        layer = _layer(name, self._ours)
        assert layer is not None
        return self._order[layer]


def _layer(name: str, table: dict[str, str]) -> str | None:
    """The layer of a table that a name is in: the longest that the name begins with."""
    while name and name not in table:
        name = name.rpartition(".")[0]
    return name or None


def unet(layout: UNetLayout) -> Names:
    """Names within the denoiser, without :data:`layout.UNET`."""
    return Names(list(_unet(layout)))


def _unet(layout: UNetLayout) -> Iterator[Pair]:
    embedding = "time_embedding.time" if layout.fps else "time_embedding"
    yield from (("time_embed.0", f"{embedding}.linear_1"), ("time_embed.2", f"{embedding}.linear_2"))
    yield from (
        ("fps_embedding.0", "time_embedding.fps.linear_1"),
        ("fps_embedding.2", "time_embedding.fps.linear_2"),
    )
    yield "input_blocks.0.0", "conv_in"
    levels, stride = len(layout.channels), layout.layers + 1
    for level in range(levels):
        for layer in range(layout.layers):
            yield from _block(f"input_blocks.{1 + level * stride + layer}", f"down_blocks.{level}", layer)
        yield f"input_blocks.{(level + 1) * stride}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
    yield "init_attn.0", "transformer_in"
    yield from _block("middle_block", "mid_block", 0)
    yield from _resnet("middle_block.3", "mid_block", 1)
    for level, attention in enumerate(reversed(layout.attention)):
        for layer in range(stride):
            yield from _block(f"output_blocks.{level * stride + layer}", f"up_blocks.{level}", layer)
        last = f"output_blocks.{(level + 1) * stride - 1}"
        yield f"{last}.{3 if attention else 1}.conv", f"up_blocks.{level}.upsamplers.0.conv"
    yield from (("out.0", "conv_norm_out"), ("out.2", "conv_out"))


def _block(theirs: str, ours: str, layer: int) -> Iterator[Pair]:
    yield from _resnet(f"{theirs}.0", ours, layer)
    yield f"{theirs}.1", f"{ours}.attentions.{layer}"
    yield f"{theirs}.2", f"{ours}.temp_attentions.{layer}"


def _resnet(theirs: str, ours: str, layer: int) -> Iterator[Pair]:
    for there, here in _RESNET.items():
        yield f"{theirs}.{there}", f"{ours}.resnets.{layer}.{here}"
    yield f"{theirs}.temopral_conv", f"{ours}.temp_convs.{layer}"


def vae(layout: VAELayout) -> Names:
    """Names within the first stage, without :data:`layout.VAE`."""
    return Names(list(_vae(layout)))


def _vae(layout: VAELayout) -> Iterator[Pair]:
    levels = len(layout.channels)
    for coder in ("encoder", "decoder"):
        yield f"{coder}.conv_in", f"{coder}.conv_in"
        for block, resnet in (("mid.block_1", 0), ("mid.block_2", 1)):
            yield from _vae_resnet(f"{coder}.{block}", f"{coder}.mid_block.resnets.{resnet}")
        for there, here in _VAE_ATTENTION.items():
            yield f"{coder}.mid.attn_1.{there}", f"{coder}.mid_block.attentions.0.{here}"
        yield f"{coder}.norm_out", f"{coder}.conv_norm_out"
        yield f"{coder}.conv_out", f"{coder}.conv_out"
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for layer in range(layout.layers):
            yield from _vae_resnet(f"encoder.down.{level}.block.{layer}", f"{down}.resnets.{layer}")
        for layer in range(layout.layers + 1):
            yield from _vae_resnet(f"decoder.up.{level}.block.{layer}", f"{up}.resnets.{layer}")
        yield f"encoder.down.{level}.downsample.conv", f"{down}.downsamplers.0.conv"
        yield f"decoder.up.{level}.upsample.conv", f"{up}.upsamplers.0.conv"
    yield from (("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv"))


def _vae_resnet(theirs: str, ours: str) -> Iterator[Pair]:
    for there, here in _VAE_RESNET.items():
        yield f"{theirs}.{there}", f"{ours}.{here}"


SCHEDULE, SCALE = "alphas_cumprod", "scale_arr"
"""Published names of the two buffers that are read: the noise schedule, and the signal's scale where there is one."""

_BUFFERS = {
    "betas",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}


def unused(name: str, layout: Layout) -> str | None:
    """Why a published tensor is deliberately left where it is; None for one that is needed or unknown."""
    if name in _BUFFERS:
        return "follows from alphas_cumprod"
    if name.startswith(f"{TEXT}transformer.resblocks.{layout.text.layers - 1}."):
        return "last layer of the text encoder; the one before it is used"
    if name in (f"{TEXT}text_projection", f"{TEXT}logit_scale"):
        return "compares texts with images"
    if name == f"{TEXT}attn_mask":
        return "the causal mask, made anew"
    if name.startswith(f"{VAE}loss."):
        return "trained the first stage"
    return None
