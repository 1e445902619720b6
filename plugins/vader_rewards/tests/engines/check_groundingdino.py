"""Engine `groundingdino` of `detection`, in the environment of groundingdino-py and transformers 4.57.6.

Run by the nox session `engines`. The transformers there has the same network, so that the two engines can be compared.
"""

import re

import pytest
import torch
from safetensors.torch import save_file

from vader import Prompt, Runtime, WeightsError
from vader_rewards import groundingdino_package
from vader_rewards.detection import Detection

pytestmark = pytest.mark.filterwarnings("default")  # what another package warns of is not ours to judge
SIZE = {"shortest_edge": 96, "longest_edge": 160}
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


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One random network in both layouts: a folder, a file, and the folder of its BERT."""
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        SwinConfig,
    )

    root = tmp_path_factory.mktemp("dino")
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
    (root / "folder" / "preprocessor_config.json").write_text(f'{{"size": {str(SIZE).replace(chr(39), chr(34))}}}')
    tensors = original(network.state_dict())
    tensors |= {f"bert.pooler.dense.{kind}": torch.ones(shape) for kind, shape in (("weight", (32, 32)), ("bias", 32))}
    tensors |= {"label_enc.weight": torch.zeros(2, 2), "bert.embeddings.position_ids": torch.arange(64)[None]}
    torch.save({"model": {f"module.{name}": tensor for name, tensor in tensors.items()}}, root / "original.pth")
    text.save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(groundingdino_package, "SIZE", SIZE)


def package(both, **options):
    chosen = {"engine": "groundingdino", "weights": str(both / "original.pth"), "text_encoder": str(both / "bert")}
    return Detection(Detection.Options(**chosen, **options), Runtime(torch.device("cpu"), torch.float32))


def ours(both, **options):
    chosen = {"engine": "grounding_dino", "weights": str(both / "folder"), **options}
    return Detection(Detection.Options(**chosen), Runtime(torch.device("cpu"), torch.float32))


def frames(height=64, width=96, clips=2, count=1):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(clips, count, 3, height, width, generator=generator)


WORDS = [Prompt("x", {"object": "a Book"}), Prompt("y", {"object": "traffic light."})]


@pytest.mark.parametrize("threshold", [0.2, 0.4])
@pytest.mark.parametrize("size", [(96, 144), (64, 96), (50, 120), (120, 50)])
def test_scores_and_gradients_are_those_of_transformers(both, size, threshold):
    """The two implementations on the same weights; names of two lengths in one batch, on frames of several shapes."""
    results = []
    for make in (package, ours):
        start = frames(*size).requires_grad_()
        scores = make(both, threshold=threshold).score(start, WORDS)
        (gradient,) = torch.autograd.grad(scores.sum(), start)
        results.append((scores, gradient))
    (scores, gradient), (expected, reference) = results
    assert 0.1 < expected.min() < expected.max() < 0.95
    assert expected.std() > 1e-3

    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)
    assert (gradient - reference).abs().max() < 1e-4 * reference.abs().max()


def test_the_objects_matter(both):
    start = frames(clips=1)
    found = [package(both, object=name).score(start, [Prompt("x")]).item() for name in ("book", "cat", "zebra")]
    assert len(set(found)) == 3
    assert package(both, object=" Book. ").score(start, [Prompt("x")]).item() == found[0]


def test_gradient_against_finite_differences(both):
    """Where the slope stands out of float32; with boxes that stay: it detaches where they are, as in its training."""
    reward = package(both, goal="favour", object="book", threshold=0.01)
    network = reward._detector._network
    with torch.no_grad():
        for parameter in (*network.bbox_embed.parameters(), *network.transformer.enc_out_bbox_embed.parameters()):
            parameter.zero_()
    start = frames(clips=1, count=2).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(start, WORDS[:1]).sum(), start)
    assert (gradient.abs().amax((2, 3, 4)) > 0).all()
    direction = gradient / gradient.norm()
    slopes = []
    with torch.no_grad():
        for step in (1e-3, 3e-4):
            ahead, behind = (reward.score(start + s * step * direction, WORDS[:1]).item() for s in (1, -1))
            slopes.append((ahead - behind) / (2 * step))
    assert max(abs(slope / gradient.norm().item() - 1) for slope in slopes) < 0.02


def test_it_is_in_float32_whatever_the_run(both):
    options = Detection.Options(
        engine="groundingdino", weights=str(both / "original.pth"), text_encoder=str(both / "bert"), object="book"
    )
    reward = Detection(options, Runtime(torch.device("cpu"), torch.bfloat16))
    start = frames().bfloat16()
    expected = package(both, object="book").score(start.float(), WORDS)
    torch.testing.assert_close(reward.score(start, WORDS), expected)


def test_other_files(both, tmp_path):
    tensors = torch.load(both / "original.pth", weights_only=True)["model"]
    for missing in ("transformer.level_embed", "transformer.decoder.norm.bias"):
        path = tmp_path / "less.safetensors"
        save_file({key: t.contiguous().clone() for key, t in tensors.items() if missing not in key}, path)
        with pytest.raises(WeightsError, match=rf"does not hold the weights .*{missing}.* is missing"):
            Detection(
                Detection.Options(engine="groundingdino", weights=str(path), text_encoder=str(both / "bert")),
                Runtime(torch.device("cpu"), torch.float32),
            )
