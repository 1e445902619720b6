"""STDiT3, the denoiser of Open-Sora 1.2 (Zheng et al. 2024, arXiv 2412.20404, section 3.2).

Parameter names and numbers are those of ``hpcai-tech/OpenSora-STDiT-v3``. Letters: ``b`` clips, ``f`` latent frames,
``s`` patches of a frame, ``d`` hidden size, ``n`` tokens of a prompt. ``m`` is ``f`` where frames are modulated one by
one and 1 where all are alike.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import apply_rotary_emb, get_2d_sincos_pos_embed, get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

PATCH = (1, 2, 2)
FREQUENCIES = 256
Rotary = tuple[Tensor, Tensor]


class STDiT3(ModelMixin, ConfigMixin):
    """Predicts ``clean - noise``, the velocity of a rectified flow, and a variance that nobody uses.

    Args:
        depth: number of pairs of a spatial and a temporal block.
        hidden_size: ``d``.
        num_heads: of attention; ``hidden_size / num_heads`` is even.
        in_channels: latent channels.
        caption_channels: width of the text embeddings.
        model_max_length: tokens of the null embedding.
        mlp_ratio: inner width of the MLPs over ``d``.
        input_sq_size: side in pixels of a square clip at which positions count one by one.
        pred_sigma: the output has twice the input's channels.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]

    @register_to_config
    def __init__(
        self,
        depth: int = 28,
        hidden_size: int = 1152,
        num_heads: int = 16,
        in_channels: int = 4,
        caption_channels: int = 4096,
        model_max_length: int = 300,
        mlp_ratio: float = 4.0,
        input_sq_size: int = 512,
        pred_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.rope = Rope(hidden_size // num_heads)
        self.x_embedder = PatchEmbedder(in_channels, hidden_size)
        self.t_embedder = ScalarEmbedder(hidden_size)
        self.fps_embedder = ScalarEmbedder(hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.y_embedder = CaptionEmbedder(caption_channels, hidden_size, model_max_length)
        inner = int(hidden_size * mlp_ratio)
        self.spatial_blocks = nn.ModuleList(Block(hidden_size, num_heads, inner) for _ in range(depth))
        self.temporal_blocks = nn.ModuleList(Block(hidden_size, num_heads, inner) for _ in range(depth))
        self.out_channels = in_channels * (2 if pred_sigma else 1)
        self.final_layer = FinalLayer(hidden_size, PATCH[1] * PATCH[2] * self.out_channels)
        self.gradient_checkpointing = False

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        *,
        fps: Tensor,
        height: float,
        width: float,
        mask: Tensor | None = None,
        x_mask: Tensor | None = None,
    ) -> Tensor:
        """One call.

        Args:
            x: ``(b c f h w)`` in the weights' dtype; an odd h or w is padded with zeros and the output cut again.
            timestep: ``(b,)`` in 0..1000.
            y: ``(b n caption_channels)``, text embeddings.
            fps: ``(b,)``, frames per second.
            height: of the clip in pixels; with ``width`` it scales the positions of the patches.
            width: of the clip in pixels.
            mask: ``(b n)``, true for tokens to attend to; None for all. At least one a row.
            x_mask: ``(b f)``, false for latent frames that are given, which are modulated as at timestep 0.

        Returns: ``(b out_channels f h w)``.
        """
        height_cells, width_cells = x.shape[-2:]
        x = functional.pad(x, (0, width_cells % PATCH[2], 0, height_cells % PATCH[1]))
        grid = (x.shape[-2] // PATCH[1], x.shape[-1] // PATCH[2])
        tokens = self.x_embedder(x) + self._positions(grid, (height * width) ** 0.5, x)
        time, start = (self._time(t, fps, tokens.dtype) for t in (timestep, torch.zeros_like(timestep)))
        of_frame = time if x_mask is None else torch.where(x_mask[..., None], time, start)
        modulation = self.t_block(of_frame).unflatten(-1, (6, -1))
        text, rotary = self.y_embedder.y_proj(y), self.rope(x.shape[2])
        attended = None if mask is None else mask.bool()[:, None, None]
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            tokens = self._run(spatial, tokens, text, attended, modulation.unsqueeze(2), None)
            across = tokens.transpose(1, 2)
            tokens = self._run(temporal, across, text, attended, modulation.unsqueeze(1), rotary).transpose(1, 2)
        patches = self.final_layer(tokens, time, start, x_mask)
        return self._unpatched(patches, grid)[..., :height_cells, :width_cells]

    def _time(self, timestep: Tensor, fps: Tensor, dtype: torch.dtype) -> Tensor:
        """``(b 1 d)``, the embedding of timestep and fps."""
        embedding: Tensor = self.t_embedder(timestep, dtype) + self.fps_embedder(fps, dtype)
        return embedding[:, None]

    def _run(self, block: nn.Module, *arguments: Tensor | Rotary | None) -> Tensor:
        """A block, recomputed in backward when gradient checkpointing is on."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            recomputed: Tensor = self._gradient_checkpointing_func(block, *arguments)
            return recomputed
        output: Tensor = block(*arguments)
        return output

    def _positions(self, grid: tuple[int, int], side: float, like: Tensor) -> Tensor:
        """``(s d)``, sines and cosines of patch positions, scaled by the clip's size (its side if it were square)."""
        base = round((grid[0] * grid[1]) ** 0.5)
        scale = side / self.config.input_sq_size
        embedding: Tensor = get_2d_sincos_pos_embed(
            self.config.hidden_size, grid, interpolation_scale=scale, base_size=base, device=like.device
        )
        return embedding.to(like.dtype)

    def _unpatched(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """``(b f s patch*c)`` to ``(b c f h w)``."""
        pixels = patches.unflatten(3, (PATCH[1], PATCH[2], self.out_channels)).unflatten(2, grid)
        return pixels.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


class Rope(nn.Module):
    """Rotary positions in time (Su et al. 2021, arXiv 2104.09864); neighbours are a pair."""

    freqs: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 10000.0 ** -(torch.arange(0, head_dim, 2) / head_dim))

    def forward(self, frames: int) -> Rotary:
        """Cosines and sines, each ``(frames head_dim)`` float32."""
        steps = torch.arange(frames, device=self.freqs.device, dtype=torch.float32)
        angles = torch.outer(steps, self.freqs.float()).repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()


class PatchEmbedder(nn.Module):
    """``(b c f h w)`` to ``(b f s d)``."""

    def __init__(self, channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, hidden_size, kernel_size=PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.proj(x)
        return embedded.flatten(3).permute(0, 2, 3, 1)


class ScalarEmbedder(nn.Module):
    """``(b,)`` to ``(b d)``."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        waves = get_timestep_embedding(value, FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        embedded: Tensor = self.mlp(waves.to(dtype))
        return embedded


class CaptionEmbedder(nn.Module):
    """Projects text embeddings, and holds the embedding of no text (``y_embedding``, not projected)."""

    y_embedding: Tensor

    def __init__(self, channels: int, hidden_size: int, tokens: int) -> None:
        super().__init__()
        self.y_proj = Mlp(channels, hidden_size, hidden_size)
        self.register_buffer("y_embedding", torch.randn(tokens, channels) / channels**0.5)


class Mlp(nn.Module):
    """Two linear layers with GELU (tanh) between them."""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return output


class Block(nn.Module):
    """Self-attention along the third dimension, cross-attention to the text, MLP.

    Spatial blocks get ``(b f s d)``, temporal ones ``(b s f d)`` and rotary positions.
    """

    def __init__(self, hidden_size: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(6, hidden_size) / hidden_size**0.5)
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(hidden_size, num_heads)
        self.cross_attn = CrossAttention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(hidden_size, inner, hidden_size)

    def forward(
        self, x: Tensor, text: Tensor, mask: Tensor | None, modulation: Tensor, rotary: Rotary | None
    ) -> Tensor:
        """Args as in :class:`STDiT3`; ``modulation`` is ``(b m 1 6 d)`` or ``(b 1 m 6 d)``, as ``x`` lies."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (self.scale_shift_table + modulation).unbind(-2)
        moved = self.norm1(x) * (1 + scale) + shift
        x = x + gate * self.attn(moved.flatten(0, 1), rotary).view_as(x)
        x = x + self.cross_attn(x.flatten(1, 2), text, mask).view_as(x)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)


class SelfAttention(nn.Module):
    """Multi-head attention of rows of tokens, with normalised queries and keys."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-6)
        self.k_norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-6)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, rotary: Rotary | None) -> Tensor:
        """``(rows tokens d)`` to the same."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = apply_rotary_emb(q, rotary), apply_rotary_emb(k, rotary)
        output: Tensor = self.proj(_attend(q, k, v, None))
        return output


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to the text."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(hidden_size, hidden_size)
        self.kv_linear = nn.Linear(hidden_size, 2 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """``(b tokens d)``, ``(b n d)`` and ``(b 1 1 n)`` to ``(b tokens d)``."""
        q = self.q_linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv_linear(text).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        output: Tensor = self.proj(_attend(q, k, v, mask))
        return output


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """``(rows heads tokens head_dim)`` to ``(rows tokens d)``."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class FinalLayer(nn.Module):
    """``(b f s d)`` to patches."""

    def __init__(self, hidden_size: int, out: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(2, hidden_size) / hidden_size**0.5)
        self.norm_final = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(hidden_size, out)

    def forward(self, x: Tensor, time: Tensor, start: Tensor, x_mask: Tensor | None) -> Tensor:
        """``time``, and ``start`` of timestep 0, are ``(b 1 d)``. Given frames are modulated by both, in turn."""
        x = self._modulated(x, time)
        if x_mask is not None:
            x = torch.where(x_mask[:, :, None, None], x, self._modulated(x, start))
        output: Tensor = self.linear(x)
        return output

    def _modulated(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + time[:, :, None, None]).unbind(-2)
        modulated: Tensor = self.norm_final(x) * (1 + scale) + shift
        return modulated
