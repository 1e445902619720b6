"""A random Grounding DINO in the layout of transformers and in that of the package groundingdino-py.

``python tiny_dino.py FOLDER`` writes both, and the folder of its BERT, with transformers 4.57.6.
"""

import re
import sys
from pathlib import Path

import torch

NAMES = (
    (r"^model\.backbone\.conv_encoder\.model\.embeddings\.patch_embeddings\.projection", "backbone.0.patch_embed.proj"),
    (r"^model\.backbone\.conv_encoder\.model\.embeddings\.norm", "backbone.0.patch_embed.norm"),
    (r"^model\.backbone\.conv_encoder\.model\.hidden_states_norms\.stage2", "backbone.0.norm1"),
    (r"^model\.backbone\.conv_encoder\.model\.hidden_states_norms\.stage3", "backbone.0.norm2"),
    (r"^model\.backbone\.conv_encoder\.model\.hidden_states_norms\.stage4", "backbone.0.norm3"),
    (r"^model\.backbone\.conv_encoder\.model\.encoder\.", "backbone.0."),
    (r"^(backbone.*)\.layernorm_before", r"\1.norm1"),
    (r"^(backbone.*)\.layernorm_after", r"\1.norm2"),
    (r"^(backbone.*)\.attention\.self\.(relative\w+)", r"\1.attn.\2"),
    (r"^(backbone.*)\.attention\.self\.(query|key|value)", r"\1.attn.qkv.\2"),
    (r"^(backbone.*)\.attention\.output\.dense", r"\1.attn.proj"),
    (r"^(backbone.*)\.intermediate\.dense", r"\1.mlp.fc1"),
    (r"^(backbone.*)\.output\.dense", r"\1.mlp.fc2"),
    (r"^model\.input_proj_vision", "input_proj"),
    (r"^model\.text_backbone", "bert"),
    (r"^model\.text_projection", "feat_map"),
    (r"^model\.query_position_embeddings", "transformer.tgt_embed"),
    (r"^model\.(level_embed|enc_output)", r"transformer.\1"),
    (r"^model\.encoder_output_bbox_embed", "transformer.enc_out_bbox_embed"),
    (r"^model\.encoder\.layers\.(\d+)\.text_enhancer_layer", r"transformer.encoder.text_layers.\1"),
    (r"^model\.encoder\.layers\.(\d+)\.fusion_layer", r"transformer.encoder.fusion_layers.\1"),
    (r"^model\.encoder\.layers\.(\d+)\.deformable_layer", r"transformer.encoder.layers.\1"),
    (r"^(transformer\.encoder\.text_layers.*)\.layer_norm_before", r"\1.norm1"),
    (r"^(transformer\.encoder\.text_layers.*)\.layer_norm_after", r"\1.norm2"),
    (r"^(transformer\.encoder\.fusion_layers\.\d+)\.vision_param", r"\1.gamma_v"),
    (r"^(transformer\.encoder\.fusion_layers\.\d+)\.text_param", r"\1.gamma_l"),
    (r"^(transformer\.encoder\.fusion_layers.*)vision", r"\1v"),
    (r"^(transformer\.encoder\.fusion_layers.*)text", r"\1l"),
    (r"^(transformer\.encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
    (r"^(transformer\.encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
    (r"^model\.decoder\.layer_norm", "transformer.decoder.norm"),
    (r"^model\.decoder\.reference_points_head", "transformer.decoder.ref_point_head"),
    (r"^model\.decoder\.", "transformer.decoder."),
    (r"^(transformer\.decoder.*)\.self_attn_layer_norm", r"\1.norm2"),
    (r"^(transformer\.decoder.*)\.encoder_attn_text_layer_norm", r"\1.catext_norm"),
    (r"^(transformer\.decoder.*)\.encoder_attn_text", r"\1.ca_text"),
    (r"^(transformer\.decoder.*)\.encoder_attn_layer_norm", r"\1.norm1"),
    (r"^(transformer\.decoder.*)\.encoder_attn", r"\1.cross_attn"),
    (r"^(transformer\.decoder.*)\.final_layer_norm", r"\1.norm3"),
    (r"^(transformer\.(?:encoder\.text|decoder)\S*layers\.\d+\.\w+)\.(query|key|value)\.", r"\1.in_proj.\2."),
    (r"^(transformer\S*layers\.\d+)\.fc(\d)", r"\1.linear\2"),
)
"""Names of transformers -> names of the package, applied in order."""


def original(state):
    """Weights of transformers under the package's names; query, key and value are one matrix there."""
    found, parts = {}, {}
    for name, tensor in state.items():
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        split = re.fullmatch(r"(.*\.(?:qkv|in_proj))\.(query|key|value)\.(weight|bias)", name)
        if split:
            whole = f"{split[1]}.{split[3]}" if split[1].endswith("qkv") else f"{split[1]}_{split[3]}"
            parts.setdefault(whole, {})[split[2]] = tensor
        else:
            found[name] = tensor
    for whole, three in parts.items():
        found[whole] = torch.cat([three[part] for part in ("query", "key", "value")])
    return found


def vocabulary():
    """BERT's special tokens where BERT has them, for transformers knows them by number; and letters."""
    places = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    letters = iter([mark + letter for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")])
    return [places.get(index) or next(letters, f"[unused{index}]") for index in range(1100)]


def write(root):
    """One network as ``folder``, ``original.pth`` and ``bert``."""
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        SwinConfig,
    )

    (root / "vocab.txt").write_text("\n".join(vocabulary()))
    tokenizer = BertTokenizerFast(vocab_file=str(root / "vocab.txt"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = BertConfig(vocab_size=1100, max_position_embeddings=64, **sizes)
    layers = {"depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "out_features": ["stage2", "stage3", "stage4"]}
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(embed_dim=8, window_size=5, **layers),
        text_config=text,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=8,
        dropout=0.0,
        disable_custom_kernels=True,
    )
    torch.manual_seed(0)
    network = GroundingDinoForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
            if "bbox_embed" in name:  # where the boxes are must not depend on the last digit
                parameter.mul_(0.2)
        network.model.decoder.layer_norm.weight.mul_(0.1)
    network.save_pretrained(root / "folder")
    tokenizer.save_pretrained(root / "folder")
    tensors = original(network.state_dict())
    tensors |= {f"bert.pooler.dense.{kind}": torch.ones(shape) for kind, shape in (("weight", (32, 32)), ("bias", 32))}
    tensors |= {"label_enc.weight": torch.zeros(2, 2), "bert.embeddings.position_ids": torch.arange(64)[None]}
    torch.save({"model": {f"module.{name}": tensor for name, tensor in tensors.items()}}, root / "original.pth")
    text.save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
