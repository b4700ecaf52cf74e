"""What all tests share: a tiny trained DLRM with its logs, and the folder of real ones where it exists."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memrec_convert.clicklog import LogSchema, SyntheticSpec, open_log, write_synthetic_log
from memrec_convert.errors import KernelError
from memrec_convert.exports import packed

ROWS = (2000, 300, 40)
DIM = 8
DENSE = 2
SPEC = SyntheticSpec(tables=ROWS, dense=DENSE, train_rows=12_000, val_rows=4_000, test_rows=4_000)


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> None:
    """A shell starts background jobs deaf to Ctrl-C, and they hand that down to what the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LOOPBACK = ("127.", "::1", "localhost")


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Raises where a test asks for an address of another machine, names that would have to be looked up included."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        address = arguments[:1]
    else:
        return
    if isinstance(address, tuple) and address and address[0] and not str(address[0]).startswith(LOOPBACK):
        raise RuntimeError(f"the tests use no network, and {event} asks for {address[0]!r}")


sys.addaudithook(refuse_network)


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips where the package was installed without a compiler, or torch is too old for the operators in C++.

    MEMREC_TEST_OPERATOR names another build of their library, such as one under sanitizers.
    """
    if named := os.environ.get("MEMREC_TEST_OPERATOR"):
        monkeypatch.setattr(packed, "find_operator", lambda: Path(named))
    try:
        packed.load_operators()
    except KernelError as error:
        pytest.skip(str(error))


@dataclass(frozen=True)
class TinyModel:
    """A trained checkpoint in facebookresearch layout, one without optimizer state, and its three logs."""

    checkpoint: Path
    bare: Path
    train: Path
    val: Path
    test: Path

    @property
    def table_bytes(self) -> int:
        """Bytes of the rows."""
        return sum(ROWS) * DIM * 4


class TinyDlrm(nn.Module):
    """facebookresearch/dlrm in small: its attribute names become the keys of the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.emb_l = nn.ModuleList(nn.EmbeddingBag(rows, DIM, mode="sum") for rows in ROWS)
        for bag in self.emb_l:
            nn.init.uniform_(bag.weight, -(bag.num_embeddings**-0.5), bag.num_embeddings**-0.5)
        vectors = len(ROWS) + 1
        self.bot_l = make_mlp([DENSE, 8, DIM], last=nn.ReLU())
        self.top_l = make_mlp([DIM + vectors * (vectors - 1) // 2, 12, 1], last=nn.Sigmoid())
        self.register_buffer("pairs", torch.tril_indices(vectors, vectors, offset=-1), persistent=False)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        """Click probabilities [B]."""
        bottom = self.bot_l(dense)
        vectors = torch.stack([bottom, *(bag(ids[:, n : n + 1]) for n, bag in enumerate(self.emb_l))], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return self.top_l(torch.cat([bottom, products[:, self.pairs[0], self.pairs[1]]], dim=1)).squeeze(1)


def make_mlp(widths: list[int], *, last: nn.Module) -> nn.Sequential:
    """Linear layers with a ReLU after each but the last, which has `last`."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1], last)


def train_tiny(train: Path) -> tuple[TinyDlrm, torch.optim.Optimizer]:
    """Two epochs of Adagrad."""
    torch.manual_seed(0)
    model = TinyDlrm()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    log = open_log(train, LogSchema(tuple((f"C{n + 1}", rows) for n, rows in enumerate(ROWS)), DENSE))
    for epoch in range(2):
        for batch in log.batches(128, shuffle_seed=epoch):
            loss = nn.functional.binary_cross_entropy(model(batch.dense, batch.ids), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model, optimizer


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The tiny trained model and its logs; nobody may change the files."""
    folder = tmp_path_factory.mktemp("tiny")
    log = write_synthetic_log(SPEC, folder)
    model, optimizer = train_tiny(log.train)
    files = TinyModel(folder / "dlrm.pt", folder / "bare.pt", log.train, log.val, log.test)
    torch.save({"state_dict": model.state_dict(), "opt_state_dict": optimizer.state_dict()}, files.checkpoint)
    torch.save({"state_dict": model.state_dict()}, files.bare)
    return files


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and logs; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MEMREC_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    if not folder.is_dir():
        pytest.skip("the real checkpoints and logs are not here")
    return folder
