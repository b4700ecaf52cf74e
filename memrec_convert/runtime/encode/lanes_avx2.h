// Sixteen floats in two registers of AVX, and the products of the search where there is no VNNI.
#pragma once

#include "products/tile_avx2.h"

namespace memrec {
namespace {

// ((0 + 2) + (1 + 3)) of each of four registers.
inline void fold_quarters(float* to, __m128 a, __m128 b, __m128 c, __m128 d) {
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
}

inline __m128 fold_half(__m256 a) { return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); }

// Pairs of int16 on both sides, widened once and not in each product. A panel holds, pair by pair, those of its 16 columns.
struct Avx2Pairs {
    using Ints = Avx2Ints;
    static constexpr int rows_at_once = 4, panels_at_once = 1;
    static constexpr bool in_pairs = true;

    // A function of its own: inlined into the greedy search by GCC 12 it was slower.
    template <int R, int P>
    MEMREC_APART static void multiply_groups(const int16_t* a, int64_t stride, const int32_t*, const int8_t* panel, int64_t,
                                             int64_t depth, Ints (&out)[R][P]) {
        static_assert(P == 1);
        const auto* columns = reinterpret_cast<const __m256i*>(panel);
        __m256i low[R], high[R];
        for (int r = 0; r < R; ++r) low[r] = high[r] = _mm256_setzero_si256();
        for (int64_t k = 0; k < depth; k += 2, columns += 2) {
            const __m256i first = _mm256_load_si256(columns), second = _mm256_load_si256(columns + 1);
            for (int r = 0; r < R; ++r) {
                int32_t pair;
                std::memcpy(&pair, a + r * stride + k, sizeof(pair));
                const __m256i values = _mm256_set1_epi32(pair);
                low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(first, values));
                high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(second, values));
            }
        }
        for (int r = 0; r < R; ++r) out[r][0] = {low[r], high[r]};
    }

    // The first eight pairs of 16 rows, `stride` bytes apart.
    static void copy_four_groups(const int8_t* rows, int64_t stride, int8_t* panel) {
        for (int half = 0; half < 2; ++half) {
            __m256i wide[8], twos[8], fours[8];
            for (int i = 0; i < 8; ++i) {
                const auto* row = reinterpret_cast<const __m128i*>(rows + (8 * half + i) * stride);
                wide[i] = _mm256_cvtepi8_epi16(_mm_loadu_si128(row));
            }
            for (int i = 0; i < 8; i += 2) {
                twos[i] = _mm256_unpacklo_epi32(wide[i], wide[i + 1]);
                twos[i + 1] = _mm256_unpackhi_epi32(wide[i], wide[i + 1]);
            }
            for (int i = 0; i < 8; i += 4)
                for (int n = 0; n < 2; ++n) {
                    fours[i + 2 * n] = _mm256_unpacklo_epi64(twos[i + n], twos[i + n + 2]);
                    fours[i + 2 * n + 1] = _mm256_unpackhi_epi64(twos[i + n], twos[i + n + 2]);
                }
            auto* to = reinterpret_cast<__m256i*>(panel + 32 * half);
            for (int pair = 0; pair < 4; ++pair) {
                _mm256_store_si256(to + 2 * pair, _mm256_permute2x128_si256(fours[pair], fours[pair + 4], 0x20));
                _mm256_store_si256(to + 2 * (pair + 4), _mm256_permute2x128_si256(fours[pair], fours[pair + 4], 0x31));
            }
        }
    }

    static void copy_rest(const int8_t* rows, int64_t stride, int64_t depth, int8_t* panel) {
        for (int64_t k = 0; k < depth; k += 2)
            for (int i = 0; i < kPanelColumns; ++i, panel += 4) {
                const int16_t pair[2] = {rows[i * stride + k], rows[i * stride + k + 1]};
                std::memcpy(panel, pair, sizeof(pair));
            }
    }
};

#if defined(__AVXVNNI__)
struct AvxVnniGroups : AvxVnniTile, InGroups {};
#endif

template <class Tile>
struct Avx2LanesOver : Tile {
    using Cut = Uncut;
    using Ints = typename Tile::Ints;
    struct Floats {
        __m256 low, high;
    };
    static Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static void store(float* p, Floats a) { _mm256_storeu_ps(p, a.low), _mm256_storeu_ps(p + 8, a.high); }
    static Floats fill(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
    static Floats subtract(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
    static Floats multiply_floats(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
    static Floats lower(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
    static Floats higher(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
    static Floats magnitude(Floats a) {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
    }
    static Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
    static Floats label(Floats a, uint32_t label, uint32_t bits) {
        const __m256 kept = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int32_t>(~bits)));
        const __m256 own = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int32_t>(label)));
        return {_mm256_or_ps(_mm256_and_ps(a.low, kept), own), _mm256_or_ps(_mm256_and_ps(a.high, kept), own)};
    }
    static float largest(Floats a) {
        const __m256 both = _mm256_max_ps(a.low, a.high);
        __m128 four = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
        four = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
    }
    static void round(int8_t* to, Floats a) {
        const __m256i pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high));
        const __m256i ordered = _mm256_permute4x64_epi64(pairs, 0xD8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    }
    static __m128 fold(Floats a) { return fold_half(_mm256_add_ps(a.low, a.high)); }
    static void fold_four(float* to, Floats a, Floats b, Floats c, Floats d) {
        fold_quarters(to, fold(a), fold(b), fold(c), fold(d));
    }
};

}  // namespace
}  // namespace memrec
