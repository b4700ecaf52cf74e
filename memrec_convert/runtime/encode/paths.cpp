#include "paths.h"

#include <cstring>
#include <limits>
#include <vector>

namespace memrec {
namespace {

constexpr int kRows = 16;  // side by side, for the compiler's vectors
constexpr int kStates = 8, kSubsets = 4;

// The subset of the levels that a window of four bits of the path names, the newest lowest.
constexpr int subset_of(int window) { return 2 * ((window ^ (window >> 1) ^ (window >> 3)) & 1) + ((window >> 2) & 1); }

struct Block {
    std::vector<float> values;                   // [dim][kRows]
    std::vector<uint8_t> nearest, older;         // [dim][kSubsets][kRows], [dim][kStates][kRows]
    float costs[kStates][kRows], reached[kStates][kRows], errors[kSubsets][kRows];
};

void load_rows(const PathSearch& search, int64_t first, int rows, Block& block) {
    for (int64_t column = 0; column < search.dim; ++column)
        for (int r = 0; r < kRows; ++r)
            block.values[column * kRows + r] = r < rows ? search.values[(first + r) * search.dim + column] : 0.0f;
}

// The nearest level of each subset, by its number within that, and its squared distance.
void measure(const PathSearch& search, int64_t column, Block& block) {
    const float* values = block.values.data() + column * kRows;
    const int levels = 2 << search.bits;
    for (int subset = 0; subset < kSubsets; ++subset) {
        float level[kRows], number[kRows];
        for (int r = 0; r < kRows; ++r) level[r] = search.levels[subset], number[r] = 0.0f;
        for (int next = subset + kSubsets; next < levels; next += kSubsets) {
            const float above = search.levels[next], middle = (above + search.levels[next - kSubsets]) / 2;
            const auto place = static_cast<float>(next / kSubsets);
            for (int r = 0; r < kRows; ++r) {
                const bool past = values[r] > middle;
                level[r] = past ? above : level[r];
                number[r] = past ? place : number[r];
            }
        }
        uint8_t* nearest = block.nearest.data() + (column * kSubsets + subset) * kRows;
        for (int r = 0; r < kRows; ++r) {
            const float off = values[r] - level[r];
            block.errors[subset][r] = off * off;
            nearest[r] = static_cast<uint8_t>(number[r]);
        }
    }
}

// A window leads from the state window >> 1 to window % 8; two lead to each state, of which the cheaper is kept.
void advance(int64_t column, Block& block) {
    uint8_t* older = block.older.data() + column * kStates * kRows;
    for (int state = 0; state < kStates; ++state) {
        const int other = state + kStates;
        const float *from = block.costs[state >> 1], *from_other = block.costs[other >> 1];
        const float *error = block.errors[subset_of(state)], *error_other = block.errors[subset_of(other)];
        for (int r = 0; r < kRows; ++r) {
            const float cost = from[r] + error[r], cost_other = from_other[r] + error_other[r];
            block.reached[state][r] = cost_other < cost ? cost_other : cost;
            older[state * kRows + r] = cost_other < cost;
        }
    }
    std::memcpy(block.costs, block.reached, sizeof block.costs);
}

void trace_back(const PathSearch& search, int64_t row, int r, const Block& block) {
    const int64_t plane = (search.dim + 7) / 8;
    uint8_t* planes = search.planes + row * search.bits * plane;
    std::memset(planes, 0, static_cast<size_t>(search.bits * plane));
    int state = 0;
    for (int s = 1; s < kStates; ++s)
        if (block.costs[s][r] < block.costs[state][r]) state = s;
    search.distances[row] = block.costs[state][r];
    for (int64_t column = search.dim - 1; column >= 0; --column) {
        const int window = state + kStates * block.older[static_cast<size_t>((column * kStates + state) * kRows + r)];
        const unsigned coarse = block.nearest[static_cast<size_t>((column * kSubsets + subset_of(window)) * kRows + r)];
        const unsigned bits = (window & 1u) | coarse << 1;
        for (int p = 0; p < search.bits; ++p)
            planes[p * plane + column / 8] |= static_cast<uint8_t>((bits >> p & 1u) << (column % 8));
        state = window >> 1;
    }
}

}  // namespace

void find_paths(const PathSearch& search) {
    const auto dim = static_cast<size_t>(search.dim);
    Block block;
    block.values.resize(dim * kRows);
    block.nearest.resize(dim * kSubsets * kRows);
    block.older.resize(dim * kStates * kRows);
    for (int64_t first = 0; first < search.count; first += kRows) {
        const auto rows = static_cast<int>(search.count - first < kRows ? search.count - first : kRows);
        load_rows(search, first, rows, block);
        for (int s = 0; s < kStates; ++s)
            for (float& cost : block.costs[s]) cost = s ? std::numeric_limits<float>::infinity() : 0.0f;
        for (int64_t column = 0; column < search.dim; ++column) {
            measure(search, column, block);
            advance(column, block);
        }
        for (int r = 0; r < rows; ++r) trace_back(search, first + r, r, block);
    }
}

}  // namespace memrec
