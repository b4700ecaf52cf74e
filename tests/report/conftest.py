"""Reports to render: a full one, and one in which nothing was measured."""

import pytest

from memrec_convert.evaluation.metrics import Decile
from memrec_convert.evaluation.slices import Slice
from memrec_convert.report import (
    AblationReport,
    Alternative,
    ArtifactFile,
    ArtifactSizes,
    AucComparison,
    Comparison,
    ControlReport,
    DecileComparison,
    GroupReport,
    Provenance,
    Report,
    Sizes,
    SourceSizes,
    TableReport,
)


def build_report(name="user", text="a note", *, tables=2):
    """A report with every field set; `name` and `text` are what a stranger's file could put there."""
    return Report(
        artifact=ArtifactFile(f"out/{name}.safetensors", 46_000_000),
        budget_bytes=48_000_000,
        weights="log",
        tables=tuple(
            TableReport(
                f"{name}{i}",
                "codes",
                33_762_577 * (i + 1),
                16,
                2_000_000_000,
                45_000_000,
                "codes 1b base + 28b x 4100 ids",
                {"row": 0.61, "code(3)": 0.3, "hashed": 0.0896, text: 0.0004},
            )
            for i in range(tables)
        ),
        sizes=Sizes(
            SourceSizes(2_150_000_000, 10_000_000, 4_400_000_000), ArtifactSizes(36_000_000, 9_990_000, 10_000)
        ),
        provenance=Provenance("0.1.0", "facebookresearch-dlrm", "zip .pt", "ab" * 16, "cd" * 16, 0, {"budget": text}),
        auc=AucComparison(0.8027, 0.8021, (-0.0009, -0.0003), "worse"),
        log_loss=Comparison(0.52, 0.521),
        normalized_entropy=Comparison(0.8, 0.8015),
        calibration=Comparison(1.0, 1.01),
        slices=(
            Slice(f"{name}0", "code(3)", 30_000, 0.3, 0.8, 0.799, -0.001),
            Slice(f"{name}0", "unseen", 12, 0.00012, None, None, None),
        ),
        deciles=DecileComparison(
            (Decile(50_010, 0.1, 0.11), Decile(50_010, 0.6, 0.59)),
            (Decile(50_010, 0.1234, 0.12), Decile(50_010, 0.61, 0.5876)),
        ),
        groups=GroupReport(
            name,
            6040,
            5900,
            0.987,
            AucComparison(0.72, 0.719, (-0.0015, -0.0005), "worse"),
            (-0.001, -0.0002),
            "worse",
            2000,
        ),
        ablation=(AblationReport(f"{name}0", 0.8022, -0.0005, (-0.0007, -0.0003)),),
        control=ControlReport(
            "auc",
            293,
            0,
            0.0,
            0.001,
            AucComparison(0.8027, 0.8027, (0.0, 0.0), "same"),
            AucComparison(0.8027, 0.8018, (-0.0012, -0.0006), "worse"),
            AucComparison(0.8027, 0.8021, (-0.0009, -0.0003), "worse"),
        ),
        evaluation={"log": f"{name}.parquet", "samples": 100_020},
        serving_bytes=47_000_000,
        plan={"theta": 1e-9, "lists": {"user": [2, 4, 16]}, "note": text},
        alternatives=(Alternative(f"int8 {name}", 48_000_000, 0.0123, text), Alternative("rows", 1)),
        fine_tune={"epochs": 1, "kept_step": 200, "teacher": text},
        architecture={"name": "dlrm", "bottom": [13, 512, 16]},
        assumed=(f"pairs are the lower triangle of {name}",),
        seconds={"read": 1.25, "plan": 0.5},
        warnings=(text, f"table {name} has unread rows"),
    )


@pytest.fixture(scope="session")
def make_report():
    """A function that builds a full report around a name and a text."""
    return build_report


@pytest.fixture
def full():
    """A report with every field set."""
    return build_report()


@pytest.fixture
def bare():
    """A conversion without any data: nothing was measured."""
    return Report(
        artifact=ArtifactFile("small.safetensors", 500),
        budget_bytes=1000,
        weights="uniform",
        tables=(TableReport("t", "int8", 10, 4, 160, 60, "int8 rows"),),
        sizes=Sizes(SourceSizes(160, 40, 900), ArtifactSizes(60, 40, 400)),
        provenance=Provenance("0.1.0", "torchrec-dlrm", "safetensors"),
    )
