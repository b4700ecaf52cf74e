// Sixteen columns in AVX2: two registers where AVX-VNNI multiplies groups of four at once, else pairs as int16.
#pragma once

#include <immintrin.h>

#include "tiles.h"

namespace memrec {
namespace {

struct Avx2Ints {
    __m256i low, high;
};

inline void store_ints(int32_t* to, const Avx2Ints& ints) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), ints.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), ints.high);
}

// Each column has two partial sums until the end: groups of four become two products of pairs.
struct Avx2Tile {
    using Ints = Avx2Ints;
    static constexpr int rows_at_once = 2, panels_at_once = 1;

    template <int R, int P>
    MEMREC_ALWAYS static void multiply(const int8_t* a, int64_t stride, const int32_t* sums, const int8_t* panel,
                                       int64_t bytes, int64_t depth, Ints (&out)[R][P]) {
        const int64_t k = depth / kGroup * kGroup;
        multiply_groups<R, P>(a, stride, sums, panel, bytes, k, out);
        if (k == depth) return;
        __m256i last[R][4] = {};
        Ints rest[R][P];
        add<R>(a, stride, k, depth, panel, last);
        join<R>(last, rest);
        for (int r = 0; r < R; ++r)
            out[r][0] = {_mm256_add_epi32(out[r][0].low, rest[r][0].low), _mm256_add_epi32(out[r][0].high, rest[r][0].high)};
    }

    template <int R, int P>
    MEMREC_ALWAYS static void multiply_groups(const int8_t* a, int64_t stride, const int32_t*, const int8_t* panel, int64_t,
                                              int64_t depth, Ints (&out)[R][P]) {
        static_assert(P == 1);
        __m256i sums[R][4];
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < 4; ++i) sums[r][i] = _mm256_setzero_si256();
        for (int64_t k = 0; k < depth; k += kGroup) add<R>(a, stride, k, k + kGroup, panel, sums);
        join<R>(sums, out);
    }

    template <int R>
    MEMREC_ALWAYS static void join(__m256i (&sums)[R][4], Ints (&out)[R][1]) {
        for (int r = 0; r < R; ++r) {
            const __m256i low = _mm256_hadd_epi32(sums[r][0], sums[r][1]), high = _mm256_hadd_epi32(sums[r][2], sums[r][3]);
            out[r][0] = {_mm256_permute4x64_epi64(low, 0xD8), _mm256_permute4x64_epi64(high, 0xD8)};
        }
    }

    template <int R>
    MEMREC_ALWAYS static void add(const int8_t* a, int64_t stride, int64_t k, int64_t depth, const int8_t* panel,
                                  __m256i (&sums)[R][4]) {
        const auto* columns = reinterpret_cast<const __m128i*>(panel + k * kPanelColumns);
        __m256i values[R];
        for (int r = 0; r < R; ++r)
            values[r] = _mm256_cvtepi8_epi16(_mm_set1_epi32(group_at(a + r * stride, k, depth)));
        for (int i = 0; i < 4; ++i) {
            const __m256i four = _mm256_cvtepi8_epi16(_mm_loadu_si128(columns + i));
            for (int r = 0; r < R; ++r) sums[r][i] = _mm256_add_epi32(sums[r][i], _mm256_madd_epi16(four, values[r]));
        }
    }

    static void store(int32_t* to, const Ints& ints) { store_ints(to, ints); }
};

#if defined(__AVXVNNI__)
struct AvxVnniTile {
    using Ints = Avx2Ints;
    static constexpr int rows_at_once = 4, panels_at_once = 1;

    template <int R, int P>
    MEMREC_ALWAYS static void multiply(const int8_t* a, int64_t stride, const int32_t* row_sums, const int8_t* panel,
                                       int64_t bytes, int64_t depth, Ints (&out)[R][P]) {
        const int64_t k = depth / kGroup * kGroup;
        multiply_groups<R, P>(a, stride, row_sums, panel, bytes, k, out);
        if (k < depth) add<R>(a, stride, k, depth, panel, out);
    }

    template <int R, int P>
    MEMREC_ALWAYS static void multiply_groups(const int8_t* a, int64_t stride, const int32_t* row_sums, const int8_t* panel,
                                              int64_t, int64_t depth, Ints (&out)[R][P]) {
        static_assert(P == 1);
        for (int r = 0; r < R; ++r) out[r][0].low = out[r][0].high = _mm256_set1_epi32(-128 * row_sums[r]);
        for (int64_t k = 0; k < depth; k += kGroup) add<R>(a, stride, k, k + kGroup, panel, out);
    }

    template <int R>
    MEMREC_ALWAYS static void add(const int8_t* a, int64_t stride, int64_t k, int64_t depth, const int8_t* panel,
                                  Ints (&out)[R][1]) {
        const auto* columns = reinterpret_cast<const __m256i*>(panel + k * kPanelColumns);
        const __m256i sign = _mm256_set1_epi8(-128);  // from signed to unsigned, 128 more
        const __m256i low = _mm256_xor_si256(_mm256_loadu_si256(columns), sign);
        const __m256i high = _mm256_xor_si256(_mm256_loadu_si256(columns + 1), sign);
        for (int r = 0; r < R; ++r) {
            const __m256i values = _mm256_set1_epi32(group_at(a + r * stride, k, depth));
            out[r][0].low = _mm256_dpbusd_avx_epi32(out[r][0].low, low, values);
            out[r][0].high = _mm256_dpbusd_avx_epi32(out[r][0].high, high, values);
        }
    }

    static void store(int32_t* to, const Ints& ints) { store_ints(to, ints); }
};
#endif

}  // namespace
}  // namespace memrec
