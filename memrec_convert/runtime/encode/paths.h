// The best paths of trellis rows (section 4.1 of docs/artifact.md): Viterbi's algorithm, the same bits on every machine.
#pragma once

#include <cstdint>

namespace memrec {

struct PathSearch {
    const float* values;  // [count, dim], in units of their rows' scales
    int64_t count, dim;
    int32_t bits;         // of a value, 1 to 6
    const float* levels;  // [2**(bits + 1)], rising
    uint8_t* planes;      // [count, bits, ceil(dim / 8)]
    float* distances;     // [count], squared
};

void find_paths(const PathSearch& search);

}  // namespace memrec
