"""Tables without a network: what an artifact of `--tables-only` loads as."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from memrec_convert.errors import ModelError
from memrec_convert.models.network import read_shapes


class TableSet(nn.Module):
    """Table modules by the names that they have in the checkpoint: `tables["emb_l.0"](ids)`.

    A mapping in all but class: names, `len`, `in`, iteration over names, `items`.
    """

    def __init__(self, architecture: Mapping[str, object], tables: Iterable[nn.Module]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)
        self.shapes = read_shapes(architecture, len(self.tables))
        names = architecture.get("names")
        if not isinstance(names, Sequence) or len(names) != len(self.tables) or len(set(map(str, names))) != len(names):
            raise ModelError(f"architecture > names: does not name each of the {len(self.tables)} tables.")
        self.places = {str(name): number for number, name in enumerate(names)}

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self.places:
            raise KeyError(f"there is no table {name!r}; they are {', '.join(self.places)}")
        return self.tables[self.places[name]]

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def keys(self) -> Iterable[str]:
        """The tables' names, in the checkpoint's order."""
        return self.places.keys()

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Pairs of name and module."""
        return ((name, self.tables[number]) for name, number in self.places.items())

    def forward(self, name: str, ids: Tensor) -> Tensor:
        """Rows float32 [..., dim] of ids int64 [...] of one table."""
        rows: Tensor = self[name](ids)
        return rows
