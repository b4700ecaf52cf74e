"""Knowing when a module's buffers were replaced, so that the kernel never uses addresses past their time."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn


class Changes:
    """Numbers of replacements, of all modules together; `last` is the latest one's."""

    _numbers = itertools.count(1)
    last = 0

    @classmethod
    def count(cls) -> int:
        """The number of a new one."""
        cls.last = next(cls._numbers)
        return cls.last


class TrackedDict(dict[str, Tensor | None]):
    """The buffers of a module; `latest` is the number of the latest replacement, higher than any before it anywhere.

    In the dict, and not in the module's __setattr__, because torch itself writes here: register_buffer, `to`, `assign`,
    functional_call.
    """

    latest = 0

    def __setitem__(self, name: str, buffer: Tensor | None) -> None:
        """As dict's, and takes a new number."""
        super().__setitem__(name, buffer)
        self.latest = Changes.count()

    def __delitem__(self, name: str) -> None:
        """As dict's, and takes a new number."""
        super().__delitem__(name)
        self.latest = Changes.count()

    def __reduce__(self) -> tuple[type[TrackedDict], tuple[dict[str, Tensor | None]]]:
        """Without the number, which means nothing elsewhere."""
        return TrackedDict, (dict(self),)


class TrackedBuffers(nn.Module):
    """A module whose `generation` rises when a buffer, or what else decides a lookup, is replaced by another object.

    Changes of numbers inside a buffer leave it as it is, except by `load_state_dict`: the kernel reads buffers where
    they are, but the keys of an index through a copy, which writing into the index itself does not renew. Of
    `buffer.data = other` a module learns nothing: lookups may go on with the old numbers, in memory that is held.
    """

    decisive: frozenset[str] = frozenset()
    """Names of the plain attributes that decide a lookup."""
    _buffers: TrackedDict

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_buffers"] = TrackedDict()

    @property
    def generation(self) -> int:
        """Number of the latest replacement."""
        return self._buffers.latest

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - nn.Module's own signature
        """As nn.Module's, and takes a new number: it may have copied into the buffers."""
        super()._load_from_state_dict(*arguments, **options)
        self._buffers.latest = Changes.count()

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - nn.Module's own signature
        """As nn.Module's, and takes a new number for what is decisive."""
        super().__setattr__(name, value)
        if name in self.decisive:
            self._buffers.latest = Changes.count()
