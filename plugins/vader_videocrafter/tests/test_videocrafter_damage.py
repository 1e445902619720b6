"""Every way a checkpoint can fail is one WeightsError that counts, names and says what to do."""

import shutil

import pytest
import torch

from vader import WeightsError
from vader_videocrafter import layout


@pytest.fixture
def state(tiny_file):
    """The tensors of a tiny checkpoint, the test's own."""
    return dict(torch.load(tiny_file(), weights_only=True)["state_dict"])


def saved(path, state):
    torch.save({"state_dict": state}, path)
    return path


def without(*keys):
    return lambda state: [state.pop(key) for key in keys]


def reshaped(key, *shape):
    return lambda state: state.update({key: torch.zeros(shape)})


BLOCK = f"{layout.UNET}input_blocks.3.0."
DAMAGE = {
    "a weight is missing": (
        without(f"{BLOCK}out_layers.0.bias", f"{layout.VAE}quant_conv.bias"),
        r"2 tensors are missing \(first_stage_model\.quant_conv\.bias, model\..*\.0\.bias\), 0 are unexpected",
    ),
    "a structural weight is missing": (without(f"{BLOCK}out_layers.3.weight"), r"none is called .*3\.0\.out_layers\.3"),
    "unknown weights": (
        lambda state: state.update({f"extra.{i}": torch.ones(1) for i in range(5)}),
        r"0 tensors are missing, 5 are unexpected \(extra\.0, extra\.1, extra\.2, \.\.\.\), 0 have another shape",
    ),
    "another shape": (
        reshaped(f"{layout.UNET}out.2.weight", 4, 64, 1, 1),
        r"1 have another shape \(model\.diffusion_model\.out\.2\.weight: \(4, 64, 1, 1\) there, \(4, 64, 3, 3\) here",
    ),
    "no schedule": (without("alphas_cumprod"), r"1 tensors are missing \(alphas_cumprod\)"),
    "a scale that is too short": (
        reshaped("scale_arr", 400),
        r"1 have another shape \(scale_arr: \(400,\) there, \(1000,",
    ),
    "a head of no width": (
        reshaped(f"{layout.UNET}init_attn.0.proj_in.weight", 4, 64, 1),
        r"of shapes that no VideoCrafter checkpoint has \(the input attention is 4 wide",
    ),
    "channels in no whole groups": (
        reshaped(f"{layout.UNET}input_blocks.1.0.out_layers.3.weight", 48, 64, 3, 3),
        r"the sizes in .* make no network: num_channels \(48\) must be",
    ),
    "a table with one side": (
        reshaped(f"{layout.TEXT}positional_embedding", 77),
        "of shapes that no VideoCrafter checkpoint has",
    ),
    "no input attention": (
        lambda state: [state.pop(key) for key in list(state) if "init_attn" in key],
        r"none is called model\.diffusion_model\.init_attn",
    ),
    "another text encoder": (
        reshaped(f"{layout.TEXT}positional_embedding", 77, 768),
        "width of the text embeddings: 768 made, 16 taken",
    ),
    "a text encoder of one layer": (
        lambda state: [state.pop(key) for key in list(state) if "resblocks.1." in key],
        r"none is called cond_stage_model\.model\.transformer\.resblocks\.1\.ln_1",
    ),
    "another model": (
        lambda state: [state.pop(key) for key in list(state) if not key.startswith("b")],
        "no VideoCrafter",
    ),
    "image-to-video": (
        lambda state: state.update({"image_proj_model.latents": torch.ones(1)}),
        "is an image-to-video checkpoint",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint(state, tmp_path, load, name):
    damage, message = DAMAGE[name]
    damage(state)
    file = saved(tmp_path / "model.ckpt", state)
    with pytest.raises(WeightsError, match=message) as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert "VideoCrafter/VideoCrafter2" in str(caught.value)


def test_a_real_text_encoder_needs_all_its_layers(shapes):
    real = {name: shape for name, shape in shapes("t2v_512_v2.0").items() if ".resblocks.23." not in name}
    with pytest.raises(WeightsError, match=r"resblocks\.23"):
        layout.read(real, "it")


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_a_truncated_file(tiny_file, tmp_path, load, name, converted):
    file = tmp_path / name
    if name.endswith(".ckpt"):
        shutil.copy(tiny_file(), file)
    else:
        converted(tiny_file(), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"\([\d,]+ bytes\) is truncated or not"):
        load(file)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "model.pt"])
def test_a_file_of_another_type(tmp_path, load, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(WeightsError, match="is truncated or not"):
        load(tmp_path / name)


class Code:
    """What must not be run."""


def test_a_file_with_code_in_it_is_not_opened(tmp_path, load):
    torch.save({"state_dict": {"x": torch.ones(1)}, "callback": Code()}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match="holds more than tensors and plain values"):
        load(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds list without tensors"), ({}, "without tensors"), ({"a": 1}, "'a' is of type int")],
)
def test_a_file_without_a_state_dict(tmp_path, load, content, message):
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / "model.ckpt")
