"""What an artifact says about itself, as one canonical JSON text of a length known before anything is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from memrec_convert.artifact.layout import canonical_json
from memrec_convert.errors import ArtifactError

FORMAT_VERSION = 1
DIGEST_BYTES = 16
METADATA_ATTRIBUTE = "memrec_metadata"
"""The attribute in which a model carries what its file says, or will say, about it."""
NOT_MEASURED = "not measured"
MEASURED_NAMES = ("auc_after", "auc_before", "log_loss_after", "log_loss_before")


@dataclass(frozen=True)
class Metadata:
    """The metadata of one artifact.

    modules       per path of a compressed module its description (encoding.modules.describe_module)
    architecture  of a known network, else None: then the user brings the skeleton
    dense         precision of the dense part, "fp32" or "bf16"
    aliases       tensor names that share another's tensor
    profile       how rows were weighted and the digest of the log behind it
    plan          budget and options that decided the forms
    measured      per name of MEASURED_NAMES 12 characters
    digests       per tensor 32 hex digits (BLAKE2b-128 of its bytes)
    """

    modules: Mapping[str, Mapping[str, Any]]
    architecture: Mapping[str, Any] | None
    dense: str
    profile: Mapping[str, Any]
    plan: Mapping[str, Any]
    seed: int
    aliases: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(MEASURED_NAMES, NOT_MEASURED))
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_text(self) -> str:
        """Canonical JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return canonical_json({"format": FORMAT_VERSION, **plain})

    def with_digests(self, tensors: Mapping[str, Tensor]) -> Metadata:
        """The same with the digests of these tensors."""
        return replace(self, digests={name: digest_tensor(tensor) for name, tensor in tensors.items()})

    def with_blank_digests(self, names: list[str]) -> Metadata:
        """The same with digests of the right length, to count bytes with."""
        return replace(self, digests=dict.fromkeys(names, "0" * 2 * DIGEST_BYTES))


def parse_metadata(text: str | None, where: str) -> Metadata:
    """Metadata from its JSON text; ArtifactError where it is foreign, damaged or of a newer format."""
    if text is None:
        raise ArtifactError(
            f"{where} is a safetensors file without memrec_convert metadata: not an artifact of this tool."
        )
    try:
        plain = json.loads(text)
        version = plain.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{where}: its metadata is damaged ({error}); convert the source again.") from error
    if not isinstance(version, int) or version > FORMAT_VERSION or version < 1:
        raise ArtifactError(
            f"{where} has format version {version!r}; this release reads up to {FORMAT_VERSION}: install a newer "
            "memrec-convert."
        )
    expected = set(Metadata.__dataclass_fields__)
    if set(plain) != expected:
        odd = sorted(expected ^ set(plain))
        raise ArtifactError(
            f"{where}: its metadata is damaged (fields {odd} missing or unknown); convert the source again."
        )
    kinds = {"modules": dict, "profile": dict, "plan": dict, "aliases": dict, "measured": dict, "digests": dict}
    for name, kind in kinds.items():
        if not isinstance(plain[name], kind):
            raise ArtifactError(
                f"{where}: its metadata field {name!r} is no {kind.__name__}; convert the source again."
            )
    return Metadata(**plain)


def format_measured(value: float | None) -> str:
    """A measured number in exactly 12 characters, so that the file's size does not depend on it."""
    return NOT_MEASURED if value is None else f"{value:.10f}"[: len(NOT_MEASURED)].ljust(len(NOT_MEASURED), "0")


def digest_tensor(tensor: Tensor) -> str:
    """BLAKE2b-128 of the tensor's bytes as they stand in the file."""
    return hashlib.blake2b(tensor_bytes(tensor), digest_size=DIGEST_BYTES).hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The tensor's elements in row-major order, without a copy where it is contiguous already."""
    import torch

    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    array: Any = flat.numpy()
    return memoryview(array)
