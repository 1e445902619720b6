"""Layers as a model's authors name them -> as diffusers does, ``{}`` for a number; for adapters of other programs."""

from __future__ import annotations

_WAN_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
_WAN_PARTS = {
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "norm3": "norm2",
}
WAN: dict[str, str] = {
    **{f"blocks.{{}}.self_attn.{a}": f"blocks.{{}}.attn1.{b}" for a, b in _WAN_ATTENTION.items()},
    **{f"blocks.{{}}.cross_attn.{a}": f"blocks.{{}}.attn2.{b}" for a, b in _WAN_ATTENTION.items()},
    **{f"blocks.{{}}.{a}": f"blocks.{{}}.{b}" for a, b in _WAN_PARTS.items()},
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "patch_embedding": "patch_embedding",
    "head.head": "proj_out",
}
"""Source: ``scripts/convert_wan_to_diffusers.py`` of diffusers."""
