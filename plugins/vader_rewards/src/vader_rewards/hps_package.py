"""HPSv2 by the package hpsv2, as it scores: with its network, tokenizer and preprocessing of 8-bit images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from vader import Prompt, RegistryError, Runtime, WeightsError
from vader.sdk import beyond_room, first_line, install_command, user_path
from vader_rewards.extras import packaged
from vader_rewards.image_text import HPS_FILES, HpsWeights

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = ("src", "open_clip", "bpe_simple_vocab_16e6.txt.gz")

TOKENS = 77
"""Of a text that its network takes, those of begin and end among them."""


class HpsPackageOptions(HpsWeights):
    """Options of :class:`HpsPackage`."""


class HpsPackage:
    """What the package hpsv2 says of the frames, mean over frames: a check of ``hps``, which has a gradient.

    The package scores 8-bit images without gradient, in half precision on a GPU.

    Args:
        options: which weights.
        runtime: device.

    Raises:
        vader.RegistryError: if the package, its vocabulary or tkinter is not installed.
        vader.WeightsError: if the weights cannot be loaded.

    Source: ``hpsv2.score`` of hpsv2 1.2 (Wu et al. 2023, arXiv 2306.09341).
    """

    Options = HpsPackageOptions
    differentiable: ClassVar[bool] = False
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: HpsPackageOptions, runtime: Runtime) -> None:
        _check_environment()
        from hpsv2.src.open_clip import image_transform, tokenize
        from hpsv2.src.open_clip.tokenizer import SimpleTokenizer
        from torch import nn

        self._network: Any = _network(options.weights or HPS_FILES[options.version]).to(runtime.device)
        self._prepare: Any = image_transform(self._network.visual.image_size, is_train=False, resize_longest_max=True)
        for step in self._prepare.transforms:
            if isinstance(step, nn.Module):
                step.eval()
        self._tokenize: Any = tokenize
        self._words: Any = SimpleTokenizer()
        self._device = runtime.device

    def cut_off(self, text: str) -> str:
        """See :class:`vader.sdk.CutsPrompts`."""
        return beyond_room(text, TOKENS - 2, self._words.encode, self._words.decode)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``, without gradient."""
        import torch
        from PIL import Image

        from vader_rewards import pixels

        whole = pixels.images(frames.detach()).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        images = torch.stack([self._prepare(Image.fromarray(image)) for image in whole]).to(self._device)
        tokens = self._tokenize([prompt.text for prompt in prompts]).to(self._device)
        half = torch.autocast(self._device.type, torch.float16, enabled=self._device.type == "cuda")
        with torch.no_grad(), half:
            seen = self._network.encode_image(images, normalize=True)
            said = self._network.encode_text(tokens, normalize=True)
            cosine = (seen * said.repeat_interleave(frames.shape[1], 0)).sum(-1)
        return pixels.per_clip(cosine.to(pixels.wide(frames.dtype)), frames)


def _check_environment() -> None:
    """The package is here, and what it has forgotten to bring."""
    page = "docs/how-to/environments.md has the commands."
    if find_spec("hpsv2") is None:
        raise RegistryError(f"reward 'hps_package' needs the package hpsv2, in an environment of its own. {page}")
    vocabulary = packaged("hpsv2", *VOCABULARY)
    if not vocabulary.is_file():
        raise RegistryError(
            f"hpsv2 comes without its vocabulary {vocabulary.name}. Run: python -m vader_rewards.hps_package. {page}"
        )
    if find_spec("tkinter") is None:
        raise RegistryError(f"hpsv2 imports tkinter, which this Python has not. Install it (apt: python3-tk). {page}")


def _network(name: str) -> Any:
    """The package's network with weights of a file (ViT-H-14) or of a folder of open_clip."""
    import torch
    from hpsv2.src.open_clip import CLIP, get_model_config

    from vader_rewards import weights

    folder = user_path(name)
    try:
        if folder.is_dir():
            settings = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
            path = folder / "open_clip_model.safetensors"
        else:
            settings, path = get_model_config("ViT-H-14"), weights.file(name, "weights")
        with torch.random.fork_rng(devices=[]):  # its first weights are random
            network = CLIP(**settings)
        weights.fill(network, weights.state(path), path, "hpsv2's network")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"`weights: {name}`: expected open_clip_config.json and open_clip_model.safetensors in it: "
            f"{first_line(error)}."
        ) from error
    return network.requires_grad_(False).eval()


def main() -> None:
    """Command line: ``python -m vader_rewards.hps_package`` gives hpsv2 the vocabulary that it lacks, open_clip's."""
    if find_spec("hpsv2") is None or find_spec("open_clip") is None:
        raise SystemExit(
            "hpsv2 and open_clip are not both installed. Run: pip install hpsv2, and "
            f"{install_command('vader-plugin-rewards[hps]')}"
        )
    target = packaged("hpsv2", *VOCABULARY)
    shutil.copyfile(packaged("open_clip", target.name), target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
