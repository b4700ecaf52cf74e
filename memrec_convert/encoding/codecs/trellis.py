"""Rows of 1 to 6 bits per value: trellis-coded quantisation, whose error is a fifth below that of int4 rows.

A value is one of 2**(bits + 1) levels, twice as many as its bits could name: the path, one bit of each value, says by
the three values before which half of the levels is meant. The encoder looks for the best path through a whole row
(Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources", IEEE Transactions on
Communications 38(1), 1990; the eight-state code is Ungerboeck's, IEEE Transactions on Information Theory 28(1), 1982).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from memrec_convert.kernels.encoder import find_paths
from memrec_convert.kernels.ordered import take_root

ROWS_AT_ONCE = 4096
STEPS_PER_OCTAVE = 8
"""Of scales, which are minifloats of one byte: 3 bits of mantissa, 5 of exponent."""
_LARGEST_SCALE = 255
_EXPONENT_BIAS = 22
_BITS_OF_BYTE = torch.arange(8)

_BEST_PEAK = {1: 1.19, 2: 1.83}
"""Largest level over the root mean square of Gaussian values where that serves them best; from 3 bits on, the row's own
largest value is the better guide."""


@dataclass(frozen=True)
class TrellisRows:
    """value = integer * scale * 2**(-3 * bits - 3); the integer is c (c**2 + 4**(bits + 1)), c an odd one of the path.

    `rows` holds a row's bits in planes, one bit of every value each; plane 0 is the path. The levels lie closer near
    zero, where values are frequent.
    """

    bits: int

    @property
    def name(self) -> str:
        """With the number of bits."""
        return f"trellis{self.bits}"

    def parts(self, rows: int, dim: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Bit planes, each of whole bytes, and scales of one byte."""
        return {"rows": (torch.uint8, (rows, self.bits * plane_bytes(dim))), "scale": (torch.uint8, (rows,))}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Of a few scales per row the one whose best path loses least; values beyond about 1,900 become that."""
        if not len(rows):
            return {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in self.parts(*rows.shape).items()}
        found = [self._encode(part) for part in torch.split(rows, ROWS_AT_ONCE)]
        return {"rows": torch.cat([planes for planes, _ in found]), "scale": torch.cat([scale for _, scale in found])}

    def decode(self, parts: Mapping[str, Tensor], numbers: Tensor, dim: int) -> Tensor:
        """One product per value: integers stay below 2**24, where float32 is exact, and a power of two is a shift."""
        planes = _unpack(parts["rows"][numbers].view(len(numbers), self.bits, plane_bytes(dim)), dim)
        path = planes[:, 0]
        one, two, three = (functional.pad(path, (lag, 0))[:, :dim] for lag in (1, 2, 3))
        index = 2 * (path ^ one ^ three) + two
        for number in range(1, self.bits):
            index += planes[:, number] << (number + 1)
        unit = scale_values(parts["scale"][numbers]) * 2.0 ** (-3 * self.bits - 3)
        rows: Tensor = self._integers(index) * unit.unsqueeze(1)
        return rows

    def _integers(self, index: Tensor) -> Tensor:
        """The level with each number 0..2**(bits + 1) - 1, as float32."""
        odd = (2 * index + 1 - 2 ** (self.bits + 1)).to(torch.float32)
        whole: Tensor = odd * (odd * odd + 4.0 ** (self.bits + 1))
        return whole

    def _levels(self) -> Tensor:
        return self._integers(torch.arange(2 ** (self.bits + 1))) * 2.0 ** (-3 * self.bits - 3)

    def _encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        widest = float(scale_values(torch.tensor(_LARGEST_SCALE)) * self._levels()[-1])
        rows = rows.clamp(-widest, widest)
        best: tuple[Tensor, Tensor, Tensor] | None = None
        for scale in self._scales_to_try(rows):
            value = scale_values(scale)
            in_units = rows / value.clamp(min=2.0**-_EXPONENT_BIAS).unsqueeze(1)
            planes, distance = find_paths(in_units, self._levels(), bits=self.bits)
            distance *= value * value
            if best is None:
                best = planes, scale, distance
                continue
            better = distance < best[2]
            best = (
                torch.where(better.unsqueeze(1), planes, best[0]),
                torch.where(better, scale, best[1]),
                torch.minimum(distance, best[2]),
            )
        assert best is not None
        scale = torch.where(rows.abs().amax(dim=1) > 0, best[1], 0).to(torch.uint8)
        return best[0], scale

    def _scales_to_try(self, rows: Tensor) -> list[Tensor]:
        """Numbers of scales, int64 [n] each: below the one that covers the row's largest value, and what suits most."""
        peak = float(self._levels()[-1])
        top = _number_of_scale(rows.abs().amax(dim=1) / peak).ceil()
        if self.bits not in _BEST_PEAK:
            tried = [top - 2, top - 1, top]
        else:
            usual = _number_of_scale(take_root(rows.square().mean(dim=1)) * (_BEST_PEAK[self.bits] / peak)).round()
            tried = [usual, usual + 1, ((usual + top) / 2).floor(), top - 2]
        return [one.clamp(1, _LARGEST_SCALE).to(torch.int64) for one in tried]


def plane_bytes(dim: int) -> int:
    """Bytes of one bit of each of `dim` values."""
    return (dim + 7) // 8


def scale_values(numbers: Tensor) -> Tensor:
    """The scales with these numbers (uint8 or int64), float32: (8 + number mod 8) * 2**(number // 8 - 25), 0 for 0."""
    numbers = numbers.to(torch.int32)
    value = ((numbers << 20) + ((127 - _EXPONENT_BIAS) << 23)).view(torch.float32)
    return torch.where(numbers > 0, value, 0.0)


def _number_of_scale(scale: Tensor) -> Tensor:
    """The number of each scale (float32, above 0) if there were scales between those there are, float32."""
    exponent = scale.clamp(min=2.0**-_EXPONENT_BIAS).log2().floor()
    return STEPS_PER_OCTAVE * (exponent + _EXPONENT_BIAS + scale * 2.0**-exponent - 1)


def _unpack(packed: Tensor, dim: int) -> Tensor:
    """Bits (uint8 [n, planes, bytes], the first in the lowest bit) one by one, int64 [n, planes, dim]."""
    bits: Tensor = (packed.to(torch.int64).unsqueeze(3) >> _BITS_OF_BYTE & 1).flatten(2)[:, :, :dim]
    return bits


TRELLIS = tuple(TrellisRows(bits) for bits in range(1, 7))
