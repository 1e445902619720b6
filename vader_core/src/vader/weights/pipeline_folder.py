"""Pipelines in diffusers' layout, a folder for each part: found, judged and loaded for backbones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader.errors import WeightsError
from vader.paths import user_path
from vader.weights.files import SAFETENSORS, check_safetensors, first_line, hub_folder, is_hub_id, shown

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"


@dataclass(frozen=True)
class PipelineFolder:
    """One kind of pipeline. Its folder also holds a ``scheduler``.

    Args:
        modules: names of the parts that hold weights.
        judge: takes ``model_index.json`` and what the user calls the pipeline; ``WeightsError`` for another kind.
        fix: where to get one, the end of every message.
        tokenizers: names of the parts that are tokenizers.
        processors: names of the parts that prepare images for their encoder.
    """

    modules: tuple[str, ...]
    judge: Callable[[Mapping[str, Any], str], None]
    fix: str
    tokenizers: tuple[str, ...] = ("tokenizer",)
    processors: tuple[str, ...] = ()

    @property
    def configs(self) -> dict[str, str]:
        """The configuration file of every part."""
        tokenizers = dict.fromkeys(self.tokenizers, "tokenizer_config.json")
        processors = dict.fromkeys(self.processors, "preprocessor_config.json")
        modules = dict.fromkeys(self.modules, "config.json")
        return {**modules, **tokenizers, **processors, "scheduler": "scheduler_config.json"}

    def find(self, weights: str, revision: str | None = None) -> Path:
        """The local folder with index and configurations, judged; the weights need not be there.

        Args:
            weights: hub id or local folder; a folder that exists wins. A hub id is downloaded, or taken from the hub's
                cache.
            revision: of the hub repository.

        Raises:
            WeightsError: there is no such folder or repository, or it holds another kind of pipeline.
        """
        folder = user_path(weights)
        if folder.is_dir():
            if revision is not None:
                raise WeightsError(
                    f"{weights} is a local folder and has no revision {revision!r}; leave `revision` out."
                )
        elif folder.exists() or not is_hub_id(weights):
            what = "is a file, not a folder" if folder.exists() else "is no folder here, nor a hub id (owner/name)"
            raise WeightsError(f"weights {weights!r} {what}. {self.fix}")
        else:
            folder = hub_folder(weights, self._small_files(), revision)
        self.judge(self.read_json(folder / INDEX, weights), weights)
        for part, config in self.configs.items():
            if not (folder / part / config).is_file():
                expected = f"expected the folders {', '.join(self.configs)}"
                raise WeightsError(f"{weights} has no {part}/{config}; {expected}. {self.fix}")
        return folder

    def locate(self, weights: str, revision: str | None = None, variant: str | None = None) -> Path:
        """The local folder of a whole pipeline, its weight files checked.

        Of a hub repository the index and the configurations alone are fetched and judged before the weights are.

        Args:
            weights: see :meth:`find`.
            revision: see :meth:`find`.
            variant: restricts the download to that variant's files, and to the plain ones of a part that has none.

        Raises:
            WeightsError: see :meth:`find`; a weight file is missing or truncated; or no part has the variant.
        """
        folder = self.find(weights, revision)
        if not user_path(weights).is_dir():
            folder = self._fetched(weights, revision, variant)
        for part in self.modules:
            check_safetensors(folder / part, weights, self.fix)
        if variant and not any(_has(variant, folder / part) for part in self.modules):
            wanted = f"expected *.{variant}*{SAFETENSORS} in {', '.join(self.modules)}"
            raise WeightsError(f"{weights} has no files of the variant {variant!r}; {wanted}. {self.fix}")
        return folder

    def _fetched(self, weights: str, revision: str | None, variant: str | None) -> Path:
        """The local folder of a hub repository, with its weight files."""
        texts, jsons = [f"{part}/*" for part in self.tokenizers], [f"{part}/*.json" for part in self.modules]
        small = [*self._small_files(), *texts, *jsons]
        if not variant:
            return hub_folder(weights, [*small, *(f"{part}/*{SAFETENSORS}" for part in self.modules)], revision)
        own = [f"{part}/*.{variant}*{SAFETENSORS}" for part in self.modules]
        folder = hub_folder(weights, [*small, *own], revision)
        rest = [f"{part}/*{SAFETENSORS}" for part in self.modules if not _has(variant, folder / part)]
        return hub_folder(weights, rest, revision) if rest else folder

    def _small_files(self) -> list[str]:
        return [INDEX, *(f"{part}/{config}" for part, config in self.configs.items())]

    def config(self, folder: Path, part: str, name: str) -> dict[str, Any]:
        """The configuration of a part.

        Raises:
            WeightsError: it cannot be read.
        """
        return self.read_json(folder / part / self.configs[part], name)

    def read_json(self, path: Path, name: str) -> dict[str, Any]:
        """A configuration file.

        Raises:
            WeightsError: it is not there or holds no JSON object.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise WeightsError(
                f"{name} has no {path.name}, so it is not a pipeline in diffusers' layout. {self.fix}"
            ) from error
        except (OSError, ValueError) as error:
            raise WeightsError(f"{name}: {path.name} is not readable JSON: {first_line(error)}. {self.fix}") from error
        if not isinstance(data, dict):
            raise WeightsError(f"{name}: {path.name} holds {type(data).__name__}; expected a JSON object. {self.fix}")
        return data

    def tokenizer(self, kind: Any, folder: Path, name: str, part: str = "tokenizer") -> Any:
        """A tokenizer or what prepares images, of a class of transformers.

        Raises:
            WeightsError: it cannot be loaded.
        """
        try:
            return kind.from_pretrained(folder, subfolder=part, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            raise WeightsError(f"{name}: the {part} cannot be loaded: {first_line(error)}. {self.fix}") from error

    def module(
        self, kind: Any, folder: Path, part: str, name: str, variant: str | None, dtype: torch.dtype, **more: Any
    ) -> Any:
        """One network on the CPU, with every weight from its safetensors files and no weight of theirs left over.

        Files are mapped, and each tensor goes straight to its place: there is no second copy of the network.

        Args:
            kind: class of diffusers or transformers.
            folder: as :meth:`locate` gives it.
            part: name of its folder.
            name: what the user calls the pipeline.
            variant: of the weight files, where the part has it; else, as in diffusers, the plain ones.
            dtype: of the weights.
            more: for its ``from_pretrained``.

        Raises:
            WeightsError: a file is missing, truncated or of another network.
        """
        try:
            module, info = kind.from_pretrained(
                folder,
                subfolder=part,
                variant=variant if variant and _has(variant, folder / part) else None,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **more,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{name}: {part} cannot be loaded as {kind.__name__}: {first_line(error)}. {self.fix}"
            ) from error
        missing = sorted(map(str, info["missing_keys"]))
        unexpected = sorted(key for key in map(str, info["unexpected_keys"]) if not key.endswith("position_ids"))
        if missing or unexpected:
            raise WeightsError(
                f"{name}: the files of {part} are of another {kind.__name__} than its config.json: {len(missing)} "
                f"weights are missing{shown(missing)}, {len(unexpected)} are unexpected{shown(unexpected)}. {self.fix}"
            )
        return module


def _has(variant: str, folder: Path) -> bool:
    """Whether a part's folder holds weight files of a variant."""
    return any(folder.glob(f"*.{variant}*{SAFETENSORS}"))
