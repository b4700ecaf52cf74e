// Lanes in AVX-512: 64 at a time, and 32 for what is left; smaller ones are AVX2's.
#pragma once

#include "simd_avx2.h"

namespace memrec {
namespace {

struct Avx512Floats {
    static constexpr int lanes = 16;
    using Floats = __m512;
    static Floats load(const float* p) { return _mm512_loadu_ps(p); }
    static Floats load_bf16(const uint16_t* p) {
        const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
    static Floats load_fp16(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static Floats load_int8(const int8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static Floats multiply(Floats floats, float factor) { return _mm512_mul_ps(floats, _mm512_set1_ps(factor)); }
    static Floats cubic(Floats floats, float offset) {
        return _mm512_mul_ps(floats, _mm512_add_ps(_mm512_mul_ps(floats, floats), _mm512_set1_ps(offset)));
    }
    static Floats divide(Floats floats, float divisor) { return _mm512_div_ps(floats, _mm512_set1_ps(divisor)); }
    static Floats add(Floats floats, Floats other) { return _mm512_add_ps(floats, other); }
    template <bool stream>
    static void store(float* p, Floats floats) {
        stream ? _mm512_stream_ps(p, floats) : _mm512_storeu_ps(p, floats);
    }
};

struct Avx512 : Twice<Twice<Avx512Floats>> {
    struct Sum {
        __m512i low, high;  // of each run of 16 values the first and the last 8
    };
    using Weights = __m512i;
    static Weights weights(uint32_t both) { return _mm512_set1_epi32(static_cast<int32_t>(both)); }
    static Sum pair(const int8_t* a, const int8_t* b, Weights by) {
        __m512i first = _mm512_loadu_si512(a), second = _mm512_loadu_si512(b);
#if !defined(_MSC_VER) || defined(__clang__)
        __asm__("" : "+v"(first), "+v"(second));  // loaded once: a load as wide as a line is no cheap operand
#endif
        return {_mm512_maddubs_epi16(by, _mm512_unpacklo_epi8(first, second)),
                _mm512_maddubs_epi16(by, _mm512_unpackhi_epi8(first, second))};
    }
    static Sum add(Sum sum, Sum other) {
        return {_mm512_add_epi16(sum.low, other.low), _mm512_add_epi16(sum.high, other.high)};
    }
    static Floats to_floats(Sum sum) {
        const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        const __m512i first = _mm512_permutex2var_epi64(sum.low, front, sum.high);
        const __m512i second = _mm512_permutex2var_epi64(sum.low, back, sum.high);
        return {{widen(_mm512_castsi512_si256(first)), widen(_mm512_extracti64x4_epi64(first, 1))},
                {widen(_mm512_castsi512_si256(second)), widen(_mm512_extracti64x4_epi64(second, 1))}};
    }
    static __m512 widen(__m256i sum) { return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(sum)); }
    using Twice<Twice<Avx512Floats>>::add;
};

// Both tokens of a pair lie in one register, and one permutation interleaves them in order.
struct Interleaving {
    uint8_t bytes[64];
    constexpr Interleaving() : bytes() {
        for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(i / 2 + i % 2 * 32);
    }
};
constexpr Interleaving kInterleaving;

struct Avx512Half : Twice<Avx512Floats> {
    using Sum = __m512i;
    using Weights = __m512i;
    static Weights weights(uint32_t both) { return Avx512::weights(both); }
    static Sum pair(const int8_t* a, const int8_t* b, Weights by) {
        const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
        const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
        return _mm512_maddubs_epi16(by, _mm512_permutexvar_epi8(_mm512_loadu_si512(kInterleaving.bytes), both));
    }
    static Sum add(Sum sum, Sum other) { return _mm512_add_epi16(sum, other); }
    static Floats to_floats(Sum sum) {
        return {Avx512::widen(_mm512_castsi512_si256(sum)), Avx512::widen(_mm512_extracti64x4_epi64(sum, 1))};
    }
    using Twice<Avx512Floats>::add;
};

}  // namespace
}  // namespace memrec
