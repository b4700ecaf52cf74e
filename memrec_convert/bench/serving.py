"""Memory that serving an artifact takes: its file, and what a fresh process grows by as it loads and runs it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memrec_convert.artifact.reader import build_modules, load, parse_room, read_artifact
from memrec_convert.lookup.kernel_tables import count_idle_bytes
from memrec_convert.models import ClickNetwork
from memrec_convert.models.sample_pooled import SamplePooled

STATUS = Path("/proc/self/status")
LONGEST_SECONDS = 600
_CODE = (
    "import json, sys; from memrec_convert.bench.serving import grow; "
    "json.dump(grow(sys.argv[1], *map(int, sys.argv[2:])), sys.stdout)"
)


def measure_serving(path: Path, batch: int, dense: int | None, *, expand: str | int | None = None) -> dict[str, Any]:
    """Memory of an artifact whose network has so many dense inputs (None: it brings no network along).

    {"file_bytes", "loaded_bytes", "loading_peak_bytes", "runtime_bytes", "running_bytes", "output_pool_bytes"}.

    loaded_bytes        by which the resident memory of a fresh process grows as it loads the file a second time, beside
                        the first, and loading_peak_bytes at the most while it does
    runtime_bytes       by how much more it had grown the first time: libraries that a first load brings in
    running_bytes       what batches of `batch` samples leave behind, and of that output_pool_bytes, outputs that are
                        kept for the next call

    None where the system does not tell.
    """
    found: dict[str, Any] = {
        "file_bytes": path.stat().st_size,
        "loaded_bytes": None,
        "loading_peak_bytes": None,
        "runtime_bytes": None,
        "running_bytes": None,
        "output_pool_bytes": None,
    }
    if not STATUS.is_file():
        return found
    room = 0 if expand is None else parse_room(expand)
    arguments = (str(path.resolve()), str(batch), str(-1 if dense is None else dense), str(room))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *arguments],
        env=environment,
        timeout=LONGEST_SECONDS,
        capture_output=True,
        text=True,
        check=False,
    )
    return found | (json.loads(done.stdout) if done.returncode == 0 else {})


@torch.no_grad()
def grow(path: str, batch: int, dense: int, room: int = 0) -> dict[str, int | None]:
    """What `measure_serving` asks for, of this process, which must have done nothing yet; -1 is no known network."""
    warm = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    torch.bmm(warm(torch.zeros(8, 4, 64)), torch.zeros(8, 64, 4))  # torch's own libraries are not the model's bytes
    kept: list[Any] = []
    seen = [read_resident("VmRSS")]
    for _ in range(2):
        kept.append(load(path, expand=room or None) if dense >= 0 else build_modules(read_artifact(path), filled=True))
        gc.collect()
        seen.append(read_resident("VmRSS"))
    first, second = seen[1] - seen[0], seen[2] - seen[1]
    found: dict[str, int | None] = {
        "loaded_bytes": second,
        "loading_peak_bytes": max(second, read_resident("VmHWM") - seen[1]),
        "runtime_bytes": max(0, first - second),
    }
    if dense < 0 or not run_zeros(kept[0], batch, dense):
        return found
    gc.collect()
    return found | {"running_bytes": read_resident("VmRSS") - seen[2], "output_pool_bytes": count_idle_bytes()}


def run_zeros(model: nn.Module, batch: int, dense: int) -> bool:
    """Runs a known network of so many dense inputs on samples of the first id, three times; whether it is one."""
    if not isinstance(model, ClickNetwork | SamplePooled):
        return False
    inputs = max(model.table_inputs) + 1 if isinstance(model, ClickNetwork) else model.inputs
    for _ in range(3):
        model(torch.zeros(batch, dense), torch.zeros(batch, inputs, dtype=torch.int64))
    return True


def read_resident(name: str) -> int:
    """Bytes of one of the process's figures in /proc, such as VmRSS."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])
