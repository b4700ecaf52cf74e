// Sums of products of gradients, in double and in the order of the rows, compiled for each instruction set: floats multiply
// exactly in double, and nothing is fused, so that all give the same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "encoder.h"

namespace memrec {
namespace {

#if defined(__AVX512F__)
using Doubles = double __attribute__((vector_size(64)));
#elif defined(__AVX__)
using Doubles = double __attribute__((vector_size(32)));
#else
using Doubles = double __attribute__((vector_size(16)));
#endif
constexpr int64_t kDoubles = sizeof(Doubles) / sizeof(double);
constexpr int64_t kLine = 8;      // a row is filled up to a multiple of it, on every instruction set
constexpr int64_t kAtATime = 64;  // rows that are widened together

// The rows of one block in double, [kAtATime, width], zeros past dim; `own` are the same times what they are weighed by.
struct WideRows {
    explicit WideRows(int64_t dim)
        : width((dim + kLine - 1) / kLine * kLine), rows(static_cast<size_t>(kAtATime * width)), own(rows) {}

    void take(const Pulled& from, int64_t first, int64_t count) {
        for (int64_t n = 0; n < count; ++n) {
            const float* row = from.gradients + (first + n) * from.stride;
            const double share = from.shares ? from.shares[first + n] : 1.0;
            double *wide = &rows[static_cast<size_t>(n * width)], *weighed = &own[static_cast<size_t>(n * width)];
#pragma omp simd
            for (int64_t k = 0; k < from.dim; ++k) {
                wide[k] = static_cast<double>(row[k]);
                weighed[k] = wide[k] * share;
            }
        }
    }

    int64_t width;
    std::vector<double> rows, own;
};

// Adds rows [count] to `lines` lines of the moment from line i on, in `wide` vectors from column j on.
template <int lines, int wide>
void add_tile(const WideRows& from, int64_t count, int64_t i, int64_t j, double* moment) {
    Doubles sums[lines][wide];
    for (int r = 0; r < lines; ++r)
        for (int c = 0; c < wide; ++c) std::memcpy(&sums[r][c], moment + (i + r) * from.width + j + c * kDoubles, sizeof(Doubles));
    const double *left = from.own.data() + i, *right = from.rows.data() + j;
    for (int64_t n = 0; n < count; ++n, left += from.width, right += from.width) {
        Doubles values[wide];
        for (int c = 0; c < wide; ++c) std::memcpy(&values[c], right + c * kDoubles, sizeof(Doubles));
        for (int r = 0; r < lines; ++r)
            for (int c = 0; c < wide; ++c) sums[r][c] += left[r] * values[c];
    }
    for (int r = 0; r < lines; ++r)
        for (int c = 0; c < wide; ++c) std::memcpy(moment + (i + r) * from.width + j + c * kDoubles, &sums[r][c], sizeof(Doubles));
}

// See encoder.h.
inline void sum_moment(const Pulled& from) {
    constexpr int lines = 4;
    WideRows block(from.dim);
    const int64_t width = block.width;
    std::vector<double> moment(static_cast<size_t>(width * width));
    for (int64_t first = 0; first < from.count; first += kAtATime) {
        const int64_t count = std::min(kAtATime, from.count - first);
        block.take(from, first, count);
        for (int64_t i = 0; i < width; i += lines)  // what is on and above the diagonal
            for (int64_t j = i / kDoubles * kDoubles; j < width;) {
                const bool two = j + 2 * kDoubles <= width;
                if (two) add_tile<lines, 2>(block, count, i, j, moment.data());
                else add_tile<lines, 1>(block, count, i, j, moment.data());
                j += two ? 2 * kDoubles : kDoubles;
            }
    }
    for (int64_t i = 0; i < from.dim; ++i)
        for (int64_t j = 0; j < from.dim; ++j)
            from.moment[i * from.dim + j] = moment[static_cast<size_t>(std::min(i, j) * width + std::max(i, j))];
}

}  // namespace
}  // namespace memrec
