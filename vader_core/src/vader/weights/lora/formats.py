"""The formats of adapter files: one table, a reader that knows a format by its keys, and the keys it is written with.

Every program has LoRA's two factors and perhaps ``alpha``, and differs in how it names them: by a prefix, by the layer
names of diffusers or of the model's authors, with dots or with underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vader.errors import WeightsError
from vader.weights.files import shown
from vader.weights.lora.names import DOWN, PEFT_PREFIX, UP

if TYPE_CHECKING:
    from torch import Tensor

LayerNames = Mapping[str, str]
"""Names of layers as a model's authors have them -> as its denoiser has them here; ``{}`` stands for a number."""


@dataclass(frozen=True)
class Format:
    """How a program names an adapter's tensors.

    Args:
        prefixes: what every key begins with, one of these.
        published: layers are written with the names that the model's authors gave them; read they are from all but
            diffusers'.
        flat: layer names have underscores for dots.
        ends: of the keys of the two factors, as they are written; every known end is read.
        alpha: keys for alpha are written. Without them, and without a configuration, alpha is the rank.
    """

    prefixes: tuple[str, ...]
    published: bool = False
    flat: bool = False
    ends: tuple[str, str] = (DOWN, UP)
    alpha: bool = False


_KOHYA_ENDS = (".lora_down.weight", ".lora_up.weight")
FORMATS: Mapping[str, Format] = {
    "peft": Format((PEFT_PREFIX,)),
    "diffusers": Format(("transformer.", "unet.")),
    "comfyui": Format(("diffusion_model.",), published=True),
    "videox_fun": Format(("lora_unet__",), published=True, flat=True, ends=_KOHYA_ENDS, alpha=True),
    "kohya": Format(("lora_unet_",), published=True, flat=True, ends=_KOHYA_ENDS, alpha=True),
}
"""Name -> format, in the order in which they are tried. ``kohya`` is musubi-tuner's too."""
BARE = Format(("",), published=True)
"""Without a prefix."""

_INNER = re.compile(r"^(transformer|unet|diffusion_model)\.")
"""What a peft file may have after its own prefix, if the pipeline or its wrapper was given to peft."""
_FACTOR = re.compile(r"(?P<layer>.+)\.lora[_.](?P<half>A|B|down|up)(\.default)?\.weight")
_WHOLE = {".diff": ".weight", ".diff_b": ".bias"}
_REFUSED = {
    "DoRA": re.compile(r"dora_scale|lora_magnitude_vector"),
    "LoRA with biases": re.compile(r"lora[_.](A|B|down|up)(\.default)?\.bias"),
    "LoHa": re.compile(r"hada_w"),
    "LoKr": re.compile(r"lokr_w"),
    "LoRA with a middle factor (LoCon)": re.compile(r"lora_mid"),
    "an adapter of a text encoder": re.compile(r"^lora_te\d?_"),
}


@dataclass
class Found:
    """What the keys of a file say, by layers as the denoiser names them.

    Args:
        format: its name; None for keys without a prefix.
        down: first factors, ``(rank in ...)``.
        up: second factors, ``(out rank ...)``.
        alpha: of the layers that say it.
        whole: differences of whole parameters (``diff``, ``diff_b``), by the parameters' names.
    """

    format: str | None
    down: dict[str, Tensor] = field(default_factory=dict)
    up: dict[str, Tensor] = field(default_factory=dict)
    alpha: dict[str, float] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)


def recognise(keys: Mapping[str, object]) -> str | None:
    """The name of the format that a file's keys are in; None for keys without a prefix."""
    return next((name for name, known in FORMATS.items() if any(k.startswith(known.prefixes) for k in keys)), None)


def parse(state: Mapping[str, Tensor], layers: LayerNames, source: str) -> Found:
    """Sort the tensors of a file, whatever its format.

    Args:
        state: as the file has it.
        layers: of the backbone.
        source: what the user calls the file, for errors.

    Raises:
        WeightsError: it is another kind of adapter, or a key has no place.
    """
    for kind, sign in _REFUSED.items():
        if key := next((key for key in state if sign.search(key)), None):
            raise WeightsError(
                f"{source} is {kind} ({key}), which is not taken. Expected a LoRA of two factors a layer on the "
                "denoiser alone: merge it into the weights, or export it as one with the program that made it."
            )
    if not any(_FACTOR.fullmatch(key) or key.endswith(tuple(_WHOLE)) for key in state):
        raise WeightsError(f"{source} holds no LoRA tensors (names ending in {DOWN[1:]}){shown(list(state))}.")
    name = recognise(state)
    known = FORMATS[name] if name is not None else BARE
    names, found, lost = _Names(known, layers), Found(name), []
    for key, tensor in state.items():
        if not _place(key, tensor, names, found):
            lost.append(key)
    if lost:
        what = f"in the format {name!r}" if name else "without a prefix"
        raise WeightsError(
            f"{source} has keys {what}, and {len(lost)} of its {len(state)} have no place{shown(lost)}. Is it a LoRA "
            f"of this backbone's model? Formats that are read: {', '.join(FORMATS)}."
        )
    halves = sorted(found.down.keys() ^ found.up.keys())
    if halves:
        raise WeightsError(f"{source} has one factor of two for {len(halves)} layers{shown(halves)}. Copy it again.")
    return found


def _place(key: str, tensor: Tensor, names: _Names, found: Found) -> bool:
    """Put one tensor where it belongs; false if it belongs nowhere."""
    if (factor := _FACTOR.fullmatch(key)) is not None:
        layer, home = names.plain(factor["layer"]), found.down if factor["half"] in ("A", "down") else found.up
        if layer is not None:
            home[layer] = tensor
        return layer is not None
    if key.endswith(".alpha"):
        layer = names.plain(key.removesuffix(".alpha"))
        if layer is not None:
            found.alpha[layer] = float(tensor.float().reshape(-1)[0]) if tensor.numel() == 1 else float("nan")
        return layer is not None
    for end, parameter in _WHOLE.items():
        if key.endswith(end) and (layer := names.plain(key.removesuffix(end))) is not None:
            found.whole[layer + parameter] = tensor
            return True
    return False


class _Names:
    """From the layer names of one format to the denoiser's."""

    def __init__(self, known: Format, layers: LayerNames) -> None:
        self._known = known
        ours = {name: name for name in layers.values()} if known.flat else {}
        given = {} if known is FORMATS["diffusers"] else layers
        self._rules = list(_rules({**ours, **given}, flat=known.flat))

    def plain(self, name: str) -> str | None:
        """The denoiser's name; None for a name that the format cannot have."""
        prefix = next((prefix for prefix in self._known.prefixes if name.startswith(prefix)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
        if prefix == PEFT_PREFIX:
            name = _INNER.sub("", name)
        for pattern, template in self._rules:
            if (match := pattern.fullmatch(name)) is not None:
                return template.format(*match.groups())
        return None if self._known.flat else name


def _rules(names: LayerNames, *, flat: bool) -> Iterator[tuple[re.Pattern[str], str]]:
    for source, target in names.items():
        text = source.replace(".", "_") if flat else source
        yield re.compile(re.escape(text).replace(r"\{\}", r"(\d+)")), target


def keys(state: Mapping[str, Tensor], name: str, layers: LayerNames, prefix: str | None = None) -> dict[str, str]:
    """Plain names of an adapter's tensors -> keys of a format.

    Args:
        state: by plain name.
        name: of the format.
        layers: of the backbone.
        prefix: which of the format's prefixes; None for the first.

    Raises:
        WeightsError: the format needs other layer names than the backbone's, and a layer has none.
    """
    known = FORMATS[name]
    rules = list(_rules({ours: theirs for theirs, ours in layers.items()}, flat=False)) if known.published else []
    found, lost = {}, []
    for key in state:
        end = DOWN if key.endswith(DOWN) else UP
        layer = key.removesuffix(end)
        matches = ((template, match) for pattern, template in rules if (match := pattern.fullmatch(layer)))
        template, match = next(matches, (None, None))
        if template is not None and match is not None:
            layer = template.format(*match.groups())
        elif known.flat or (known.published and layers):
            lost.append(layer)
        written = layer.replace(".", "_") if known.flat else layer
        found[key] = (prefix or known.prefixes[0]) + written + known.ends[end == UP]
    if lost:
        raise WeightsError(
            f"the format {name!r} names layers as the model's authors do, and {len(lost)} of the adapter's have no "
            f"such name in this backbone{shown(lost)}. Write it as 'peft' or 'diffusers'."
        )
    return found
