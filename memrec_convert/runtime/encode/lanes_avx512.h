// Sixteen floats in one register of AVX-512.
#pragma once

#include "lanes_avx2.h"
#include "products/tile_avx512.h"

namespace memrec {
namespace {

struct Avx512Lanes : Avx512Tile, InGroups {
    using Cut = Uncut;
    using Floats = __m512;
    static Floats load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }
    static Floats fill(float value) { return _mm512_set1_ps(value); }
    static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
    static Floats multiply_floats(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats lower(Floats a, Floats b) { return _mm512_min_ps(a, b); }
    static Floats higher(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    static Floats magnitude(Floats a) { return _mm512_abs_ps(a); }
    static Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
    static Floats label(Floats a, uint32_t label, uint32_t bits) {
        constexpr int keep_or_label = 0xB8;  // where a bit of `bits` is set the label's, else the float's
        return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(static_cast<int>(bits)),
                                                             _mm512_set1_epi32(static_cast<int>(label)), keep_or_label));
    }
    static float largest(Floats a) { return _mm512_reduce_max_ps(a); }
    static void round(int8_t* to, Floats a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
    }
    // As copy_groups for sixteen bytes of each row: four times four words change places within quarters of registers.
    static void copy_four_groups(const int8_t* rows, int64_t stride, int8_t* panel) {
        __m512i quarters[4];  // row n + 4 * q in quarter q
        for (int n = 0; n < 4; ++n) {
            const int8_t* own = rows + n * stride;
            quarters[n] = _mm512_castsi128_si512(row_at(own));
            quarters[n] = _mm512_inserti32x4(quarters[n], row_at(own + 4 * stride), 1);
            quarters[n] = _mm512_inserti32x4(quarters[n], row_at(own + 8 * stride), 2);
            quarters[n] = _mm512_inserti32x4(quarters[n], row_at(own + 12 * stride), 3);
        }
        const __m512i a = _mm512_unpacklo_epi32(quarters[0], quarters[1]), b = _mm512_unpackhi_epi32(quarters[0], quarters[1]);
        const __m512i c = _mm512_unpacklo_epi32(quarters[2], quarters[3]), d = _mm512_unpackhi_epi32(quarters[2], quarters[3]);
        _mm512_storeu_si512(panel, _mm512_unpacklo_epi64(a, c));
        _mm512_storeu_si512(panel + 64, _mm512_unpackhi_epi64(a, c));
        _mm512_storeu_si512(panel + 128, _mm512_unpacklo_epi64(b, d));
        _mm512_storeu_si512(panel + 192, _mm512_unpackhi_epi64(b, d));
    }
    static __m128i row_at(const int8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
    static __m128 fold(Floats a) { return fold_half(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1))); }
    static void fold_four(float* to, Floats a, Floats b, Floats c, Floats d) {
        fold_quarters(to, fold(a), fold(b), fold(c), fold(d));
    }
};

}  // namespace
}  // namespace memrec
