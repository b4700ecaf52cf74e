"""Which ranks are alive: each tells the common store so every second, and watches the others do the same."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from memrec_convert.errors import RankError

SECONDS_BETWEEN_BEATS = 1.0

SILENCE = 15.0
"""Seconds without a beat after which a rank counts as lost."""

SHORT_SILENCE = 4.0
"""The same once it is known that somebody is gone, and only asked who."""

FIRST_BEAT = 120.0
"""Seconds that a rank may take to come at all."""

_FAILED = "failed"
_AGAIN = "; start the same command again, which goes on from what --work holds."


class Store(Protocol):
    """Of torch.distributed's stores what is needed here."""

    def set(self, key: str, value: str) -> None:
        """Puts a value under a key."""

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of these keys are there."""


@dataclass
class Watch:
    """Beats for this rank in a thread of its own, and knows when each of the others was last heard."""

    store: Store
    rank: int
    size: int
    heard: dict[int, float] = field(default_factory=dict)
    beats: dict[int, bytes] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    failure: str = ""
    cut: bool = False
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to beat and to listen."""
        now = time.monotonic()
        self.heard = {rank: now + FIRST_BEAT - SILENCE for rank in range(self.size) if rank != self.rank}
        self.thread = threading.Thread(target=self._run, name="memrec ranks", daemon=True)
        self.thread.start()

    def all_came(self) -> None:
        """Says that all ranks are there: from now on each must be heard."""
        now = time.monotonic()
        for rank in list(self.heard):
            self.heard[rank] = min(self.heard.get(rank, now), now)

    def stop(self) -> None:
        """Nobody need wait for this rank any more."""
        self.over.set()
        self._tell("done")
        self._join()

    def fail(self, sentence: str) -> None:
        """Tells the others why this rank stops; the first to say so is heard."""
        self.over.set()
        try:
            if not self.store.check([_FAILED]):
                self.store.set(_FAILED, f"{self.rank} {sentence}")
        except RuntimeError:  # the store is gone, and with it whoever would read it
            self.cut = True
        self._join()

    def check(self) -> None:
        """RankError where a rank has failed or has not been heard for SILENCE."""
        found = self._find_fault(SILENCE)
        if found:
            raise RankError(found)

    def explain(self, what: str) -> RankError:
        """Who is gone, once it is known that somebody is; waits until that can be told. `what` is said otherwise."""
        until = time.monotonic() + SHORT_SILENCE + 2 * SECONDS_BETWEEN_BEATS
        while time.monotonic() < until:
            found = self._find_fault(SHORT_SILENCE)
            if found:
                return RankError(found)
            time.sleep(0.1)
        return RankError(what)

    def _find_fault(self, silence: float) -> str:
        if self.failure:
            first, _, sentence = self.failure.partition(" ")
            return f"rank {first} stopped, and with it the others: {sentence}"
        if self.cut:
            return (
                "the store that joins the ranks does not answer: the machine that hosts it (rank 0's) is gone" + _AGAIN
            )
        now = time.monotonic()
        lost = [rank for rank, heard in self.heard.items() if now - heard > silence]
        if not lost:
            return ""
        rank = min(lost, key=self.heard.__getitem__)
        return f"rank {rank} of {self.size} is gone: it was not heard for {now - self.heard[rank]:.0f} s" + _AGAIN

    def _join(self) -> None:
        """Waits for the thread: Python's end must not meet it inside of torch, where it cannot be ended."""
        if self.thread is not None:
            self.thread.join(SHORT_SILENCE)

    def _run(self) -> None:
        count = 0
        while not self.over.is_set():
            count += 1
            self._tell(str(count))
            self._listen()
            self.over.wait(SECONDS_BETWEEN_BEATS)

    def _tell(self, beat: str) -> None:
        try:
            self.store.set(f"beat {self.rank}", beat)
        except RuntimeError:
            self.cut = not self.over.is_set()

    def _listen(self) -> None:
        try:
            if self.store.check([_FAILED]):
                self.failure = self.store.get(_FAILED).decode(errors="replace")
            for rank in list(self.heard):
                key = f"beat {rank}"
                beat = self.store.get(key) if self.store.check([key]) else b""
                if beat == b"done":
                    del self.heard[rank]
                elif beat != self.beats.get(rank, b""):
                    self.beats[rank], self.heard[rank] = beat, time.monotonic()
        except RuntimeError:
            self.cut = not self.over.is_set()
