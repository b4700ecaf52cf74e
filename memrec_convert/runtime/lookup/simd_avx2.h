// Lanes in AVX2 with F16C: 32 at a time, and 16 and 8 for what is left.
//
// Two tokens at a time: their bytes are interleaved, and one instruction multiplies each by its power of two and adds
// the pair. Sums come in the order of the interleaving and are put right when they become floats.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace memrec {
namespace {

struct Avx2Quarter {
    static constexpr int lanes = 8;
    using Sum = __m128i;
    using Floats = __m256;
    using Weights = __m128i;
    static Weights weights(uint32_t both) { return _mm_set1_epi32(static_cast<int32_t>(both)); }
    static Sum pair(const int8_t* a, const int8_t* b, Weights by) {
        return _mm_maddubs_epi16(by, _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)),
                                                       _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b))));
    }
    static Sum add(Sum sum, Sum other) { return _mm_add_epi16(sum, other); }
    static Floats to_floats(Sum sum) { return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sum)); }
    static Floats load(const float* p) { return _mm256_loadu_ps(p); }
    static Floats load_bf16(const uint16_t* p) {
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
    static Floats load_fp16(const uint16_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static Floats load_int8(const int8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static Floats multiply(Floats floats, float factor) { return _mm256_mul_ps(floats, _mm256_set1_ps(factor)); }
    static Floats cubic(Floats floats, float offset) {
        return _mm256_mul_ps(floats, _mm256_add_ps(_mm256_mul_ps(floats, floats), _mm256_set1_ps(offset)));
    }
    static Floats divide(Floats floats, float divisor) { return _mm256_div_ps(floats, _mm256_set1_ps(divisor)); }
    static Floats add(Floats floats, Floats other) { return _mm256_add_ps(floats, other); }
    template <bool stream>
    static void store(float* p, Floats floats) {
        stream ? _mm256_stream_ps(p, floats) : _mm256_storeu_ps(p, floats);
    }
};

// Floats of twice the lanes of `Part`, part by part.
template <class Part>
struct Twice {
    static constexpr int lanes = 2 * Part::lanes;
    struct Floats {
        typename Part::Floats low, high;
    };
    static Floats load(const float* p) { return {Part::load(p), Part::load(p + Part::lanes)}; }
    static Floats load_bf16(const uint16_t* p) { return {Part::load_bf16(p), Part::load_bf16(p + Part::lanes)}; }
    static Floats load_fp16(const uint16_t* p) { return {Part::load_fp16(p), Part::load_fp16(p + Part::lanes)}; }
    static Floats load_int8(const int8_t* p) { return {Part::load_int8(p), Part::load_int8(p + Part::lanes)}; }
    static Floats multiply(Floats f, float factor) {
        return {Part::multiply(f.low, factor), Part::multiply(f.high, factor)};
    }
    static Floats cubic(Floats f, float offset) { return {Part::cubic(f.low, offset), Part::cubic(f.high, offset)}; }
    static Floats divide(Floats f, float divisor) { return {Part::divide(f.low, divisor), Part::divide(f.high, divisor)}; }
    static Floats add(Floats f, Floats g) { return {Part::add(f.low, g.low), Part::add(f.high, g.high)}; }
    template <bool stream>
    static void store(float* p, Floats floats) {
        Part::template store<stream>(p, floats.low);
        Part::template store<stream>(p + Part::lanes, floats.high);
    }
};

struct Avx2Half : Twice<Avx2Quarter> {
    struct Sum {
        __m128i low, high;
    };
    using Weights = __m128i;
    static Weights weights(uint32_t both) { return _mm_set1_epi32(static_cast<int32_t>(both)); }
    static Sum pair(const int8_t* a, const int8_t* b, Weights by) {
        const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a));
        const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
        return {_mm_maddubs_epi16(by, _mm_unpacklo_epi8(first, second)),
                _mm_maddubs_epi16(by, _mm_unpackhi_epi8(first, second))};
    }
    static Sum add(Sum sum, Sum other) {
        return {_mm_add_epi16(sum.low, other.low), _mm_add_epi16(sum.high, other.high)};
    }
    static Floats to_floats(Sum sum) { return {Avx2Quarter::to_floats(sum.low), Avx2Quarter::to_floats(sum.high)}; }
    using Twice<Avx2Quarter>::add;
};

struct Avx2 : Twice<Avx2Half> {
    struct Sum {
        __m256i low, high;  // values 0-7 and 16-23, values 8-15 and 24-31
    };
    using Weights = __m256i;
    static Weights weights(uint32_t both) { return _mm256_set1_epi32(static_cast<int32_t>(both)); }
    static Sum pair(const int8_t* a, const int8_t* b, Weights by) {
        const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
        const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
        return {_mm256_maddubs_epi16(by, _mm256_unpacklo_epi8(first, second)),
                _mm256_maddubs_epi16(by, _mm256_unpackhi_epi8(first, second))};
    }
    static Sum add(Sum sum, Sum other) {
        return {_mm256_add_epi16(sum.low, other.low), _mm256_add_epi16(sum.high, other.high)};
    }
    static Floats to_floats(Sum sum) {
        return {Avx2Half::to_floats({_mm256_castsi256_si128(sum.low), _mm256_castsi256_si128(sum.high)}),
                Avx2Half::to_floats({_mm256_extracti128_si256(sum.low, 1), _mm256_extracti128_si256(sum.high, 1)})};
    }
    using Twice<Avx2Half>::add;
};

}  // namespace
}  // namespace memrec
