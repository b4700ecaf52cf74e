"""The ranks that torchrun started find each other, and make sure that they are about the same conversion."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from memrec_convert.conversion.ranks.alive import Watch
from memrec_convert.conversion.ranks.crew import RankedCrew
from memrec_convert.conversion.ranks.wire import Wire
from memrec_convert.errors import MemrecError, OptionError, RankError
from memrec_convert.version import __version__

TIME_TO_COME = timedelta(minutes=5)
"""For all ranks to be there."""

_LAUNCH = "start ranks with torchrun, or unset WORLD_SIZE and RANK for one process."

_LOOKED_AT = 4096
_PLACES = 64


def is_ranked(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that torchrun, or a launcher like it, has started.

    OptionError where the environment says so and does not say all that ranks need to find each other.
    """
    size = _read_number(environment, "WORLD_SIZE", 1, None) if environment.get("WORLD_SIZE") else 1
    if size < 2 or "RANK" not in environment:
        return False
    _read_number(environment, "RANK", 0, size - 1)
    _read_number(environment, "MASTER_PORT", 1, 65_535)
    if not environment.get("MASTER_ADDR"):
        raise OptionError(f"WORLD_SIZE is {size}, and there is no MASTER_ADDR to find the other ranks at; {_LAUNCH}")
    return True


def _read_number(environment: Mapping[str, str], name: str, least: int, most: int | None) -> int:
    text = environment.get(name, "")
    number = int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 10 else None
    if number is None or number < least or (most is not None and number > most):
        above = " or more" if most is None else f" to {most}"
        raise OptionError(f"the environment's {name} is {text[:40]!r}; expected a number, {least}{above}; {_LAUNCH}")
    return number


def join_ranks(choices: Mapping[str, Any]) -> RankedCrew:
    """The crew of all ranks; RankError where one does not come, has another version or is told something else."""
    import torch
    import torch.distributed

    dist: Any = torch.distributed  # whose types hide the stores

    if not dist.is_available() or not dist.is_gloo_available():
        raise OptionError("several ranks need a torch that is built with gloo; convert with one process.")
    store, rank, size = next(iter(dist.rendezvous("env://")))
    # A connection of its own: that of the group waits for other ranks at times.
    own = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False)
    watch = Watch(dist.PrefixStore("memrec/alive", own), rank, size)
    watch.start()
    signal.signal(signal.SIGTERM, lambda *_: _stop(watch))
    group_store = dist.PrefixStore("memrec/group", store)
    try:
        dist.init_process_group("gloo", store=group_store, rank=rank, world_size=size, timeout=TIME_TO_COME)
    except RuntimeError as error:
        raise watch.explain(f"the ranks do not find each other: {str(error).splitlines()[0]}") from error
    # Only the watch ends a wait: a rank may take long for its share.
    crew = RankedCrew(Wire(rank, size, watch, dist.new_group(backend="gloo", timeout=timedelta(days=30))))
    watch.all_came()
    crew.agree("the version of memrec_convert", lambda: __version__)
    crew.agree("the version of torch", lambda: torch.__version__)
    crew.agree("the options", lambda: json.dumps(_told(choices), sort_keys=True, default=str))
    return crew


@dataclass(frozen=True)
class RankedRun:
    """The crew of all ranks while a block runs; what ends it early at one rank ends it at all of them."""

    crew: RankedCrew

    @classmethod
    def begin(cls, choices: Mapping[str, Any]) -> RankedRun:
        """The ranks that were started with these options; see `join_ranks`."""
        _refuse_alone(choices)
        return cls(join_ranks(choices))

    def __enter__(self) -> RankedCrew:
        return self.crew

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        watch = self.crew.wire.watch
        if kind is None:
            watch.stop()
        elif not isinstance(error, RankError):
            watch.fail(str(error) if isinstance(error, MemrecError) else f"{kind.__name__}: {error}")


def _refuse_alone(choices: Mapping[str, Any]) -> None:
    """OptionError for what one process alone can do."""
    for option, name in (("max_auc_drop", "--max-auc-drop"), ("like", "--like"), ("model", "--model")):
        if choices.get(option) is not None:
            raise OptionError(f"{name} is for one process; leave it out, or start memrec-convert without torchrun.")
    if choices.get("method") in ("memrec", "sample-pooled"):
        raise OptionError(
            f"method {choices['method']} is for one process; leave it out, or start memrec-convert without torchrun."
        )


def _told(choices: Mapping[str, Any]) -> dict[str, Any]:
    """What all ranks must be told alike; folders may have other names on other machines."""
    return {name: value for name, value in choices.items() if name not in ("work", "out")}


def _stop(watch: Watch, _frame: FrameType | None = None) -> None:
    """torchrun ends all ranks when one has ended: says which."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise watch.explain("stopped from outside (SIGTERM), as torchrun does when a rank has ended.")


def look_at_files(files: Sequence[Path]) -> str:
    """What tells files of one name on several machines apart, from their sizes and a few places in each."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as stream:
            for place in range(_PLACES):
                stream.seek(max(0, size - _LOOKED_AT) * place // (_PLACES - 1))
                digest.update(stream.read(_LOOKED_AT))
    return digest.hexdigest()
