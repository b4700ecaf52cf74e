"""One input, one file: whatever instructions torch, its BLAS and the kernel are told to use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from memrec_convert.kernels.loading import load_kernel

SETTINGS = {
    "as it is": {},
    "lesser": {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"},
    "plain": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MEMREC_KERNEL": "scalar"},
}


@pytest.mark.skipif(load_kernel() is None, reason="sums are torch's own here")
@pytest.mark.parametrize(
    "choices",
    [(), ("--train-dense",), ("--assume", "dense_transform=log(x+3)", "--targets", "soft")],
    ids=["tables", "with the dense part", "another transform"],
)
def test_a_trained_file_has_the_same_bytes_under_all_settings(tiny, tmp_path, choices):
    """Sensitivities from the log, maps of kept tables, and an epoch of fine-tuning decide no byte by a BLAS."""
    found = {}
    for name, variables in SETTINGS.items():
        out = tmp_path / f"{len(found)}.safetensors"
        given = ["--data", tiny.train, "--val", tiny.val, "--budget", "12kB", "--epochs", "1", "--batch-size", "256"]
        subprocess.run(
            [sys.executable, "-m", "memrec_convert", "convert", tiny.checkpoint, *given, *choices, "--out", out],
            capture_output=True,
            check=True,
            env=os.environ | variables,
        )
        found[name] = out.read_bytes()
    assert found["lesser"] == found["as it is"]
    assert found["plain"] == found["as it is"]
