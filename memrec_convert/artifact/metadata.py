"""What an artifact says about itself, as one canonical JSON text of a length known before anything is measured.

The text carries a digest of itself, so that no bit of it can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from memrec_convert.artifact.features import list_features, take_requires
from memrec_convert.artifact.layout import canonical_json
from memrec_convert.artifact.quoting import quote_error, show_value
from memrec_convert.choices import Compute, values_of
from memrec_convert.errors import ArtifactError

DIGEST_BYTES = 16
_BLANK_DIGEST = "0" * 2 * DIGEST_BYTES
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "modules": dict,
    "architecture": (dict, type(None)),
    "dense": str,
    "profile": dict,
    "plan": dict,
    "seed": int,
    "aliases": dict,
    "measured": dict,
    "digests": dict,
}
_TEXTS = ("aliases", "measured", "digests")
METADATA_ATTRIBUTE = "memrec_metadata"
"""The attribute in which a model carries what its file says, or will say, about it."""
_MOST_SHOWN = 3
DENSE_NAMES = ("fp32", "bf16", "int8")
COMPUTE_NAMES = values_of(Compute)
NOT_MEASURED = "not measured"
MEASURED_NAMES = ("auc_after", "auc_before", "log_loss_after", "log_loss_before")


@dataclass(frozen=True)
class Metadata:
    """The metadata of one artifact.

    modules       per path of a compressed module its description (lookup.modules.describe_module)
    architecture  of a known network, else None: then the user brings the skeleton
    dense         precision in which the dense part is stored, "fp32", "bf16" or "int8"
    compute       what products of the dense part are taken in; the text leaves "fp32" out
    aliases       tensor names that share another's tensor
    profile       how rows were weighted and the digest of the log behind it
    plan          budget and options that decided the forms
    measured      per name of MEASURED_NAMES 12 characters
    digests       per tensor 32 hex digits (`digest_tensor`)
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
    compute: Compute = "fp32"

    def to_text(self) -> str:
        """Canonical JSON with the format's version and, as "self", the digest of the text itself with that blank.

        Format 1 wherever it suffices, else format 2 with the features that a reader must know.
        """
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.compute == "fp32":
            del plain["compute"]
        requires = list_features(plain)
        plain |= {"format": 2, "requires": requires} if requires else {"format": 1}
        blank = canonical_json(plain | {"self": _BLANK_DIGEST})
        return canonical_json(plain | {"self": digest_bytes(blank.encode())})

    def with_digests(self, tensors: Mapping[str, Tensor]) -> Metadata:
        """A copy with the digests of these tensors."""
        return replace(self, digests={name: digest_tensor(tensor) for name, tensor in tensors.items()})

    def with_blank_digests(self, names: list[str]) -> Metadata:
        """A copy with digests of the right length, to count bytes with."""
        return replace(self, digests=dict.fromkeys(names, _BLANK_DIGEST))


def parse_metadata(text: str | None, where: str) -> Metadata:
    """Metadata from its JSON text; ArtifactError where it is foreign, damaged or of a newer format."""
    if text is None:
        raise ArtifactError(
            f"{where} is a safetensors file without memrec_convert metadata: not an artifact of this tool; "
            "pass the file that convert or save wrote."
        )
    try:
        plain = json.loads(text)
        version = plain.pop("format")
        plain.pop("self", None)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        said = quote_error(error)
        raise ArtifactError(f"{where}: its metadata is damaged ({said}); convert the source again.") from error
    requires = take_requires(plain, version, where)
    expected = set(Metadata.__dataclass_fields__)
    if set(plain) | {"compute"} != expected:
        odd = [show_value(name) for name in sorted(expected ^ (set(plain) | {"compute"}))[:_MOST_SHOWN]]
        raise ArtifactError(
            f"{where}: its metadata is damaged (fields {', '.join(odd)} missing or unknown); convert the source again."
        )
    _check_kinds(plain, where)
    needed = list_features(plain)
    if requires != needed:
        raise ArtifactError(
            f"{where}: its metadata requires {requires} and describes what requires {needed}: it is damaged; convert "
            "the source again."
        )
    metadata = Metadata(**plain)
    if not _says_the_same(metadata, text):
        raise ArtifactError(
            f"{where}: its metadata does not match its own digest: the file was changed after it was written; convert "
            "the source again."
        )
    return metadata


def _check_kinds(plain: Mapping[str, Any], where: str) -> None:
    for name, kind in _KINDS.items():
        value = plain[name]
        wrong = not isinstance(value, kind) or isinstance(value, bool)
        if name in _TEXTS and not wrong:
            wrong = not all(isinstance(entry, str) for entry in value.values())
        if name == "modules" and not wrong:
            wrong = not all(isinstance(entry, dict) for entry in value.values())
        if wrong:
            raise ArtifactError(f"{where}: its metadata field {name!r} is of a wrong kind; convert the source again.")
    if plain["dense"] not in DENSE_NAMES:
        raise ArtifactError(
            f"{where}: its dense part is in {show_value(plain['dense'])}, known: {', '.join(DENSE_NAMES)}."
        )
    compute = plain.get("compute", "fp32")
    if compute not in COMPUTE_NAMES or ("compute" in plain and (compute == "fp32" or plain["architecture"] is None)):
        raise ArtifactError(
            f"{where}: its dense part is computed in {show_value(compute)}, which this network cannot be; convert the "
            "source again."
        )


def _says_the_same(metadata: Metadata, text: str) -> bool:
    """Whether the metadata, written again with a digest of its own, is this text to the last character."""
    try:
        return metadata.to_text() == text
    except (ValueError, RecursionError):  # NaN, or nested too deeply: read by json, and never written by it
        return False


def format_measured(value: float | None) -> str:
    """A measured number in exactly 12 characters, so that the file's size does not depend on it."""
    return NOT_MEASURED if value is None else f"{value:.10f}"[: len(NOT_MEASURED)].ljust(len(NOT_MEASURED), "0")


def digest_tensor(tensor: Tensor) -> str:
    """BLAKE2b-128 of the tensor's dtype and shape, as "torch.int8 [3, 4]" and a line end, and its bytes in the file."""
    return digest_bytes(f"{tensor.dtype} {list(tensor.shape)}\n".encode(), tensor_bytes(tensor))


def digest_bytes(*parts: bytes | memoryview) -> str:
    """BLAKE2b-128 of the parts one after the other, in hex."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The tensor's elements in row-major order, without a copy where it is contiguous already."""
    import torch

    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    array: Any = flat.numpy()
    return memoryview(array)
