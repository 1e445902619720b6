"""The parts of a family's pipeline: read from its folder, or on the meta device from its configurations alone."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from vader.backbones.family import Family, FamilyOptions
from vader.errors import WeightsError
from vader.weights.meta_init import MetaTokens, meta_network
from vader.weights.pipeline_folder import INDEX, PipelineFolder

if TYPE_CHECKING:
    import torch

    from vader.protocols import Video


def class_named(name: str) -> Any:
    """The class ``diffusers.X`` or ``transformers.X``."""
    library, _, attribute = name.partition(".")
    return getattr(importlib.import_module(library), attribute)


def folder_of(family: Family) -> PipelineFolder:
    """Where a family's pipelines are found and judged."""

    def judge(index: Mapping[str, Any], name: str) -> None:
        kind = index.get("_class_name")
        if kind != family.pipeline:
            raise WeightsError(f"{name} is a {kind}; expected a {family.pipeline} ({family.title}). {family.fix}")
        other = family.refuse(index)
        if other is not None:
            raise WeightsError(f"{name} is {other}; expected {family.title}. {family.fix}")

    return PipelineFolder(tuple(family.modules), judge, family.fix, tuple(family.tokenizers), tuple(family.processors))


@dataclass(frozen=True)
class Parts:
    """Gives the parts of one pipeline, one at a time.

    Args:
        family: whose pipeline it is.
        options: of the backbone.
        folder: with its files.
        outlined: on the meta device, from configurations alone.
    """

    family: Family
    options: FamilyOptions
    folder: Path
    outlined: bool = False

    @classmethod
    def stored(cls, family: Family, options: FamilyOptions) -> Parts:
        """Of the pipeline that the options name, fetched and checked.

        Raises:
            WeightsError: it is not there, is another model, or a weight file is missing or truncated.
        """
        folder = folder_of(family).locate(options.weights, options.revision, options.variant)
        return cls(family, options, folder)

    @classmethod
    def outline(cls, family: Family, options: FamilyOptions) -> Parts:
        """Of the pipeline that the options name, no weight read; a published one need not be on this disk."""
        wanted = options.weights
        if options.revision is None and not Path(wanted).is_dir():
            wanted = str(family.published.get(wanted, wanted))
        folder = folder_of(family).find(wanted, options.revision)
        return cls(family, options, folder, outlined=True)

    def config(self, part: str) -> dict[str, Any]:
        """A part's configuration, as its file has it."""
        return folder_of(self.family).config(self.folder, part, self.options.weights)

    def configs(self) -> dict[str, Any]:
        """The configurations of all networks; what a file leaves out has its class's default."""
        return {part: SimpleNamespace(**self._complete(part)) for part in self.family.modules}

    def _complete(self, part: str) -> dict[str, Any]:
        kind, said = class_named(self.family.modules[part]), self.config(part)
        if hasattr(kind, "load_config"):  # diffusers
            parameters = inspect.signature(kind.__init__).parameters.values()
            return {each.name: each.default for each in parameters if each.default is not each.empty} | said
        whole: dict[str, Any] = kind.config_class.from_dict(said).to_dict()
        return whole

    def module(self, part: str, dtype: torch.dtype) -> Any:
        """A network, frozen, on the CPU or on the meta device; an autoencoder is always wanted in float32.

        Raises:
            WeightsError: its files are missing, truncated or of another network.
        """
        kind = class_named(self.family.modules[part])
        module = meta_network(kind, self.config(part), dtype) if self.outlined else self._read(kind, part, dtype)
        return module.requires_grad_(False).eval()

    def denoiser(self, part: str, dtype: torch.dtype) -> Any:
        """A network that denoises: as :meth:`module`, with quantised weights where the option ``quantize`` says so.

        Raises:
            WeightsError: see :meth:`module`.
        """
        quantize = self.options.quantize
        if quantize == "none":
            return self.module(part, dtype)
        from vader.backbones.quantization import configuration, outline

        if self.outlined:
            return outline(self.module(part, dtype), quantize)
        kind = class_named(self.family.modules[part])
        chosen = configuration(quantize, kind, self.config(part), dtype)
        return self._read(kind, part, dtype, quantization_config=chosen).requires_grad_(False).eval()

    def _read(self, kind: Any, part: str, dtype: torch.dtype, **more: Any) -> Any:
        options, folder = self.options, folder_of(self.family)
        return folder.module(kind, self.folder, part, options.weights, options.variant, dtype, **more)

    def tokenizer(self, part: str) -> Any:
        """A tokenizer.

        Raises:
            WeightsError: it cannot be loaded.
        """
        if self.outlined:
            return MetaTokens()
        kind = class_named(f"transformers.{self.family.tokenizers[part]}")
        return folder_of(self.family).tokenizer(kind, self.folder, self.options.weights, part)

    def processor(self, part: str) -> Any:
        """What prepares images for their encoder.

        Raises:
            WeightsError: it cannot be loaded.
        """
        kind = class_named(f"transformers.{self.family.processors[part]}")
        return folder_of(self.family).tokenizer(kind, self.folder, self.options.weights, part)

    def index(self) -> dict[str, Any]:
        """The pipeline's ``model_index.json``."""
        return folder_of(self.family).read_json(self.folder / INDEX, self.options.weights)

    def boundary(self) -> float:
        """Where the first expert gives way to the second, as a share of training's timesteps.

        Raises:
            WeightsError: the index does not say it.
        """
        ratio = self.index().get("boundary_ratio")
        if not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            name = self.options.weights
            raise WeightsError(f"{name}: boundary_ratio in {INDEX} is {ratio}; expected 0 to 1. {self.family.fix}")
        return float(ratio)

    def check(self, configs: Mapping[str, Any], called: str, video: Video) -> None:
        """The parts fit each other and what was promised before loading, by their configurations.

        Args:
            configs: what :meth:`configs` gives.
            called: name of the backbone, for errors.
            video: the clip to be made.

        Raises:
            WeightsError: if not.
        """
        found = dict(self.family.check(configs, self.family.grid))
        only = self.family.fixed(configs)
        if only is not None:
            shapes = [f"{clip.frames} frames of {clip.height} x {clip.width}" for clip in (video, only)]
            found["clip"] = shapes[0], shapes[1]
        wrong = [f"{what}: {seen}, expected {wanted}" for what, (seen, wanted) in found.items() if seen != wanted]
        if wrong:
            raise WeightsError(
                f"{self.options.weights} does not fit the backbone {called} ({'; '.join(wrong)}). {self.family.fix}"
            )
