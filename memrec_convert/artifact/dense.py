"""The dense part's tensors as a file holds them: as they are, in bf16, or in int8 with scales."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from memrec_convert.choices import Compute
from memrec_convert.encoding.spec import TensorShapes
from memrec_convert.errors import ArtifactError
from memrec_convert.models.narrow import quantise_weight, takes_int8, widen_weight

SCALE = ".scale"
"""Behind the name of an int8 matrix: the float32 [outputs] that its rows are times."""
COMPUTING = ("dlrm", "dlrm-dcn", "deepfm")
"""The networks whose dense part can be computed in less than fp32."""


def narrow_tensor(name: str, tensor: Tensor, dense: str) -> dict[str, Tensor]:
    """What stands in the file for a dense tensor under `--dense`: itself or a narrower one, and perhaps its scales."""
    if tensor.dtype != torch.float32 or dense == "fp32":
        return {name: tensor}
    if dense == "bf16":
        return {name: tensor.to(torch.bfloat16)}
    if not takes_int8(tensor.shape):
        return {name: tensor}
    rows, scale = quantise_weight(tensor)
    return {name: rows, name + SCALE: scale}


def narrow_shapes(shapes: TensorShapes, dense: str) -> TensorShapes:
    """Types and shapes of what `narrow_tensor` makes of dense tensors of these types and shapes."""
    stored: TensorShapes = {}
    for name, (dtype, shape) in shapes.items():
        stored[name] = (dtype, shape)
        if dtype == torch.float32 and dense == "bf16":
            stored[name] = (torch.bfloat16, shape)
        elif dtype == torch.float32 and dense == "int8" and takes_int8(shape):
            stored |= {name: (torch.int8, shape), name + SCALE: (torch.float32, shape[:1])}
    return stored


def round_tensor(tensor: Tensor, dense: str) -> Tensor:
    """A float32 tensor with the values that a reader will find."""
    stored = narrow_tensor("", tensor, dense)
    return widen_weight(stored[""], stored[SCALE]) if SCALE in stored else stored[""].to(tensor.dtype)


def widen_tensors(tensors: Mapping[str, Tensor], dense: str, where: str) -> dict[str, Tensor]:
    """A file's tensors with its int8 matrices as float32; ArtifactError where a matrix and its scales do not match."""
    if dense != "int8":
        return dict(tensors)
    widened = dict(tensors)
    for name in [name for name in tensors if name + SCALE in tensors]:
        rows, scale = tensors[name], widened.pop(name + SCALE)
        fits = rows.dtype == torch.int8 and takes_int8(rows.shape) and scale.dtype == torch.float32
        if not fits or tuple(scale.shape) != tuple(rows.shape[:1]) or not bool(scale.isfinite().all()):
            raise ArtifactError(
                f"{where} > {name}: {rows.dtype} {list(rows.shape)} with scales {scale.dtype} {list(scale.shape)}, "
                "expected an int8 matrix and a finite float32 scale for each row; convert the source again."
            )
        widened[name] = widen_weight(rows, scale)
    return widened


def choose_compute(architecture: Mapping[str, object] | None, dense: str) -> Compute:
    """What a file of this network with its dense part stored so is computed in; a user's own class stays in fp32."""
    known = architecture is not None and architecture.get("name") in COMPUTING
    return ("bf16" if dense == "bf16" else "int8" if dense == "int8" else "fp32") if known else "fp32"
