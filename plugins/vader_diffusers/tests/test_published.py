"""The published configurations are those of diffusers' networks, and folders that mix models are one clear error."""

import json
import shutil

import diffusers
import pytest
import torch
import transformers
from plugins.vader_diffusers.tests.parity import CPU, loaded

from vader import Runtime, WeightsError
from vader.plugins import registry
from vader_diffusers import tiny

A14B = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
I2V = {**A14B, "in_channels": 36, "out_channels": 16}
TI2V = {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336}
VISION = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
COG = {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True}
FACTS = {
    "wan22": [A14B, A14B],
    "wan22_i2v": [I2V, I2V],
    "wan_i2v": [{**I2V, "image_dim": 1280, "added_kv_proj_dim": 5120}],
    "wan22_ti2v": [
        {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
    ],
    "cogvideox_i2v": [{"num_attention_heads": 48, "num_layers": 42, "in_channels": 32, "out_channels": 16, **COG}],
}
"""What is not a default of the class. Source: ``scripts/convert_{wan,cogvideox}_to_diffusers.py`` of diffusers."""
BILLIONS = {"wan22": 14.3, "wan22_i2v": 14.3, "wan_i2v": 16.4, "wan22_ti2v": 5.0, "cogvideox_i2v": 5.6}


@pytest.mark.parametrize("name", FACTS)
def test_networks_are_those_that_diffusers_builds(name):
    kind = registry.load("backbone", name)
    built = kind.meta_init(kind.Options(), Runtime(CPU, torch.bfloat16), lambda module, device: module)
    ours = [getattr(built.denoiser, expert) for expert in kind.experts] or [built.denoiser]
    network = getattr(diffusers, kind.family.modules["transformer"].partition(".")[2])
    with torch.device("meta"):
        theirs = [network(**facts) for facts in FACTS[name]]
        if name == "wan_i2v":
            ours.append(built.text.encoders["image_encoder"])
            vision = transformers.CLIPVisionConfig(**VISION, patch_size=14, hidden_act="gelu")
            theirs.append(transformers.CLIPVisionModel(vision))
    for mine, wanted in zip(ours, theirs, strict=True):
        shapes = [{key: tensor.shape for key, tensor in net.named_parameters()} for net in (mine, wanted)]
        assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours[0].parameters()) / 1e9 == pytest.approx(BILLIONS[name], rel=0.02)
    latents = built.latent_shape(kind.resolve_video(kind.Options(), {}))
    assert len(latents) == 4


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def put(folder, other, *parts):
    for part in parts:
        shutil.rmtree(folder / part)
        shutil.copytree(other / part, folder / part)


MIXED = {
    "2.1 for wan22": ("wan", "wan22", lambda f, o: None, r"a Wan 2\.1 pipeline \(one transformer .*take 'wan'"),
    "A14B for wan": ("wan22", "wan", lambda f, o: None, r"a Wan 2\.2 A14B pipeline .*take 'wan22'"),
    "A14B I2V for wan_i2v": ("wan22_i2v", "wan_i2v", lambda f, o: None, "take 'wan22_i2v'"),
    "TI2V for wan": ("wan22_ti2v", "wan", lambda f, o: None, "take 'wan22_ti2v'"),
    "I2V for wan22": ("wan22_i2v", "wan22", lambda f, o: None, "WanImageToVideoPipeline; expected a WanPipeline"),
    "no second": ("wan22", "wan22", lambda f, o: shutil.rmtree(f / "transformer_2"), "no transformer_2/config.json"),
    "no boundary": ("wan22", "wan22", lambda f, o: edit(f / "model_index.json", boundary_ratio=None), "is None; exp"),
    "I2V's second": ("wan22", "wan22", lambda f, o: put(f, o["wan22_i2v"], "transformer_2"),
                     "into the transformer of transformer_2: 36, expected 16"),
    "2.1's network": ("wan22_i2v", "wan22_i2v", lambda f, o: put(f, o["wan_i2v"], "transformer"),
                      "width of the image embeddings: 16, expected None"),
    "A14B's network in TI2V": ("wan22_ti2v", "wan22_ti2v", lambda f, o: put(f, o["wan"], "transformer"),
                               "channels into the transformer: 16, expected 4"),
    "no CLIP": ("wan_i2v", "wan_i2v", lambda f, o: shutil.rmtree(f / "image_processor"), "preprocessor_config.json"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return {name: tiny.write(home / name, 0, name) for name in ("wan", "wan22", "wan_i2v", "wan22_i2v", "wan22_ti2v")}


@pytest.mark.parametrize("case", MIXED)
def test_wrong_and_mixed_folders(folders, tmp_path, case):
    source, kind, damage, message = MIXED[case]
    folder = shutil.copytree(folders[source], tmp_path / "pipeline")
    damage(folder, folders)
    with pytest.raises(WeightsError, match=message) as caught:
        loaded(registry.load("backbone", kind), folder)
    assert "hf download" in str(caught.value)
