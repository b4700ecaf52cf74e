// Exact products of int8 matrices, signed by signed, summed in int32: out[M, N] = a[M, K] x b[N, K]^T, for any M, N and K
// up to 2**16.
//
// b is packed once: its rows become the columns of panels, 16 to a panel, four values of K side by side, so that a register
// holds one group of four for all 16 columns. a stays row-major with a stride; its rows' sums are taken beside the product,
// because instructions that multiply unsigned by signed bytes owe 128 times that sum.
//
//   std::vector<int8_t> memory(panel_bytes(k) * panel_count(n));
//   for (int64_t p = 0; p < panel_count(n); ++p)
//       pack_panel(b + 16 * p * k, k, n - 16 * p, k, memory.data() + p * panel_bytes(k));
//   std::vector<int32_t> sums(m);
//   sum_rows_of(a, stride, m, k, sums.data());
//   choose_products("")->multiply(a, stride, m, sums.data(), {memory.data(), n, k}, out, n);      // products.h: int32 out
//   for_each_tile<Isa>(a, stride, m, sums.data(), panels, [&](int64_t row, int64_t column, Ints sixteen) {...});  // tiles.h
//
// The second form is for files that are compiled for one instruction set: what a tile becomes is computed in registers.
// Every instruction set gives the same integers.
#pragma once

#include <cstdint>
#include <cstring>

namespace memrec {

constexpr int kPanelColumns = 16, kGroup = 4;

struct Panels {
    const int8_t* data;
    int64_t columns, depth;  // N and K
};

namespace {  // compiled anew in files for each instruction set: none may stand for the others

inline int64_t panel_bytes(int64_t depth) { return (depth + kGroup - 1) / kGroup * kGroup * kPanelColumns; }
inline int64_t panel_count(int64_t columns) { return (columns + kPanelColumns - 1) / kPanelColumns; }

// The first 16 of `count` rows as the columns of one panel; fewer leave zeros.
inline void pack_panel(const int8_t* rows, int64_t stride, int64_t count, int64_t depth, int8_t* panel) {
    std::memset(panel, 0, static_cast<size_t>(panel_bytes(depth)));
    for (int64_t column = 0; column < count && column < kPanelColumns; ++column)
        for (int64_t k = 0; k < depth; ++k)
            panel[(k / kGroup * kPanelColumns + column) * kGroup + k % kGroup] = rows[column * stride + k];
}

// Groups of 16 rows, `stride` bytes apart, as a panel has them: group by group, in a group row by row.
inline void copy_groups(const int8_t* rows, int64_t stride, int64_t depth, int8_t* panel) {
    for (int64_t k = 0; k < depth; k += kGroup)
        for (int i = 0; i < kPanelColumns; ++i, panel += kGroup) std::memcpy(panel, rows + i * stride + k, kGroup);
}

inline void sum_rows_of(const int8_t* rows, int64_t stride, int64_t count, int64_t depth, int32_t* sums) {
    for (int64_t row = 0; row < count; ++row) {
        int32_t sum = 0;
        for (int64_t k = 0; k < depth; ++k) sum += rows[row * stride + k];
        sums[row] = sum;
    }
}

// Four values of a row as they lie in memory; zeros past its end.
inline int32_t group_at(const int8_t* row, int64_t k, int64_t depth) {
    int32_t group = 0;
    std::memcpy(&group, row + k, static_cast<size_t>(depth - k < kGroup ? depth - k : kGroup));
    return group;
}

}  // namespace
}  // namespace memrec
