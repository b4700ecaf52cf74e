"""Where a conversion of files keeps what is large: numbers per row while it runs, and fits and codes between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrec_convert.artifact.layout import canonical_json
from memrec_convert.checkpoint import SourceModel
from memrec_convert.clicklog import Profile
from memrec_convert.conversion.inputs.from_checkpoint import LogBatches
from memrec_convert.conversion.inputs.kept_fits import NO_STORE, FitStore, open_work
from memrec_convert.conversion.inputs.subject import Progress
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.ranks.crew import AgreedStore, KeepingCrew, RankedCrew
from memrec_convert.distill.columns import Scratch
from memrec_convert.models import HELD_BYTES
from memrec_convert.parallel import ALONE, Crew
from memrec_convert.version import __version__


@dataclass(frozen=True)
class Workspace:
    """A folder for what is kept between runs (None: nothing is), one for numbers per row, and who works there."""

    kept: Path | None
    scratch: Scratch
    crew: Crew = ALONE

    def begin_digest(self, source: SourceModel) -> None:
        """Starts what names kept fits and stands in the report; ranks that keep fits share several files later."""
        if self.crew.leads and (self.kept is None or self.crew.size == 1 or len(source.files) == 1):
            source.digest.begin()

    def make_choices(
        self,
        source: SourceModel,
        train: LogBatches | None,
        profile: Profile | None,
        options: Options,
        progress: Progress,
    ) -> Mapping[str, Any]:
        """What `make_subject` is told: large tables stay in their file, and what is finished is looked for."""
        store, crew = NO_STORE, self.crew
        logs = [one for one in (train and train.log.digest(), profile and profile.digest) if one]
        crew.agree("the logs", lambda: " ".join(one.combined for one in logs))
        if self.kept is not None:
            store = FitStore(self.kept, _facts(source, train, profile, options, crew))
            crew = crew.keeping(store) if isinstance(crew, RankedCrew) else KeepingCrew(store)
            if isinstance(crew, RankedCrew):
                store = AgreedStore(store.folder, store.facts, crew)
        shared = {"scratch": self.scratch, "work": store, "crew": crew}
        return {"held_bytes": HELD_BYTES, "progress": progress, **shared}


def open_workspace(work: str | Path | None, beside: Path | None, crew: Crew = ALONE) -> Workspace:
    """`work` is made where it is missing; without it numbers per row go to unnamed files in the folder `beside`.

    OutputError where the folder cannot be made.
    """
    kept = open_work(work)
    if kept is None and not crew.leads and beside is not None and not beside.is_dir():
        beside = None  # another machine, where the artifact's folder need not be
    return Workspace(kept, Scratch(kept or beside), crew)


def mark_model(source: SourceModel) -> str:
    """What tells this network from others: 32 hex digits, from the checkpoint's bytes and how they are read."""
    text = f"{source.digest.hex()} {canonical_json(source.architecture)}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _facts(
    source: SourceModel, train: LogBatches | None, profile: Profile | None, options: Options, crew: Crew
) -> dict[str, Any]:
    """What fits and codes depend on, as digests and plain values."""
    return {
        "version": __version__,
        "source": source.digest.hex(crew),
        "architecture": source.architecture,
        "profile": profile.digest.combined if profile is not None else None,
        "felt": train is not None or (profile is not None and bool(profile.sensitivities) and profile.model),
        "train": train.log.digest().combined if train is not None else None,
        "schema": repr(train.log.schema) if train is not None else None,
        "options": options.fit_facts(),
    }
