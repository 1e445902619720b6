"""Networks that packages ship as ONNX, as differentiable torch modules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vader import WeightsError
from vader.sdk import first_line

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

FLOAT = 1  # onnx.TensorProto.FLOAT


def load_onnx(path: Path, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, dict[str, str]]:
    """A frozen network in eval mode, by onnx2torch, with what it cannot do as it is put right beforehand.

    Args:
        path: the ONNX file.
        device: where the network lives.
        dtype: of its weights.

    Returns:
        The network, which gives logits in place of the softmax the file ends in; and the file's metadata.

    Raises:
        vader.WeightsError: if the file is missing or damaged.
    """
    import onnx
    import onnx2torch

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's errors are of its own kind
        raise WeightsError(
            f"{path} is missing or damaged: {first_line(error)}. Reinstall the package it belongs to."
        ) from error
    _pad_explicitly(model.graph.node)
    _drop_float_casts(model.graph)
    _end_in_logits(model.graph)
    network: nn.Module = onnx2torch.convert(model)
    for name, module in list(network.named_children()):
        if type(module).__name__ == "OnnxSlice":
            setattr(network, name, _Slice())
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return network.requires_grad_(False).eval().to(device, dtype), metadata


def _pad_explicitly(nodes: Iterable[NodeProto]) -> None:
    """``SAME_UPPER`` with a stride of 1 as the padding it means; onnx2torch refuses the former."""
    from onnx import helper

    for node in nodes:
        found = {attribute.name: attribute for attribute in node.attribute}
        if "auto_pad" in found and found["auto_pad"].s == b"SAME_UPPER":
            assert all(stride == 1 for stride in found["strides"].ints)
            margins = [size - 1 for size in found["kernel_shape"].ints]
            pads = [margin // 2 for margin in margins] + [margin - margin // 2 for margin in margins]
            node.attribute.remove(found["auto_pad"])
            node.attribute.append(helper.make_attribute("pads", pads))


def _drop_float_casts(graph: GraphProto) -> None:
    """Casts to float32 become nothing, so that the network can have another precision."""
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == FLOAT:
            node.op_type = "Identity"
            del node.attribute[:]


def _end_in_logits(graph: GraphProto) -> None:
    """The output is what goes into the last softmax: its logarithm is then exact."""
    producers = {name: node for node in graph.node for name in node.output}
    last = producers[graph.output[0].name]
    assert last.op_type == "Softmax"
    graph.output[0].name = last.input[0]
    graph.node.remove(last)


class _Slice(nn.Module):
    """ONNX ``Slice``. onnx2torch indexes with a list, which torch is about to read as something else."""

    def forward(self, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor | None = None) -> Tensor:
        """See the operator's definition; bounds are clamped to the tensor as Python clamps a slice's."""
        counts = [1] * len(axes) if steps is None else steps.tolist()
        for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), counts, strict=True):
            chosen = range(*slice(start, end, step).indices(x.shape[axis]))
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.long, device=x.device))
        return x
