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
        multiply_groups<R, P>(a, stride, row_sums, panels, bytes, depth / kGroup * kGroup, out);
        const int64_t k = depth / kGroup * kGroup;
        if (k == depth) return;
        for (int p = 0; p < P; ++p) {
            const __m512i columns = load(panels + p * bytes + k * kPanelColumns);
            for (int r = 0; r < R; ++r)
                out[r][p] = _mm512_dpbusd_epi32(out[r][p], columns, _mm512_set1_epi32(group_at(a + r * stride, k, depth)));
        }
    }

    // As above where depth is a multiple of four.
    template <int R, int P>
    MEMREC_ALWAYS static void multiply_groups(const int8_t* a, int64_t stride, const int32_t* row_sums, const int8_t* panels,
                                              int64_t bytes, int64_t depth, Ints (&out)[R][P]) {
        __m512i sums[R][P];
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) sums[r][p] = _mm512_set1_epi32(-128 * row_sums[r]);
        for (int64_t k = 0; k < depth; k += kGroup) {
            __m512i columns[P];
            for (int p = 0; p < P; ++p) columns[p] = load(panels + p * bytes + k * kPanelColumns);
            for (int r = 0; r < R; ++r) {
                const __m512i values = _mm512_set1_epi32(group_at(a + r * stride, k, k + kGroup));
                for (int p = 0; p < P; ++p) add(sums[r][p], columns[p], values);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) out[r][p] = sums[r][p];
    }

    // From signed to unsigned: 128 more.
    static __m512i load(const int8_t* columns) { return _mm512_xor_si512(_mm512_loadu_si512(columns), _mm512_set1_epi8(-128)); }

    MEMREC_ALWAYS static void add(__m512i& sum, __m512i columns, __m512i values) {
#if defined(__GNUC__) && !defined(__clang__)
        // The intrinsic makes GCC copy every sum in every step.
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(columns), "v"(values));
#else
        sum = _mm512_dpbusd_epi32(sum, columns, values);
#endif
    }

    static void store(int32_t* to, Ints ints) { _mm512_storeu_si512(to, ints); }
};

}  // namespace
}  // namespace memrec
