// Sixteen floats in two registers of AVX.
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

template <class Tile>
struct Avx2LanesOver : Tile {
    using Cut = Uncut;
    static void copy_four_groups(const int8_t* rows, int64_t stride, int8_t* panel) { copy_groups(rows, stride, 16, panel); }
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
