// Sixteen columns in one register of AVX-512, whose VNNI instruction multiplies groups of four.
#pragma once

#include <immintrin.h>

#include "tiles.h"

namespace memrec {
namespace {

struct Avx512Tile {
    using Ints = __m512i;
    static constexpr int rows_at_once = 8, panels_at_once = 2;

    template <int R, int P>
    MEMREC_ALWAYS static void multiply(const int8_t* a, int64_t stride, const int32_t* row_sums, const int8_t* panels,
                                       int64_t bytes, int64_t depth, Ints (&out)[R][P]) {
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) out[r][p] = _mm512_set1_epi32(-128 * row_sums[r]);
        const int64_t whole = depth / kGroup * kGroup;
        if (whole < depth) add<R, P>(a, stride, whole, depth, panels, bytes, out);  // first, so that the loop alone ends in registers
        for (int64_t k = 0; k < whole; k += kGroup) add<R, P>(a, stride, k, k + kGroup, panels, bytes, out);
    }

    template <int R, int P>
    MEMREC_ALWAYS static void add(const int8_t* a, int64_t stride, int64_t k, int64_t depth, const int8_t* panels,
                                  int64_t bytes, Ints (&out)[R][P]) {
        const __m512i sign = _mm512_set1_epi8(-128);  // from signed to unsigned, 128 more
        __m512i columns[P];
        for (int p = 0; p < P; ++p)
            columns[p] = _mm512_xor_si512(_mm512_loadu_si512(panels + p * bytes + k * kPanelColumns), sign);
        for (int r = 0; r < R; ++r) {
            const __m512i values = _mm512_set1_epi32(group_at(a + r * stride, k, depth));
            for (int p = 0; p < P; ++p) out[r][p] = _mm512_dpbusd_epi32(out[r][p], columns[p], values);
        }
    }

    static void store(int32_t* to, Ints ints) { _mm512_storeu_si512(to, ints); }
};

}  // namespace
}  // namespace memrec
