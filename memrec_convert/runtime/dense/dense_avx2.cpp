// Layers in AVX2 and FMA: bytes widened to sixteen bits, whose products in pairs cannot overflow.
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include "products.h"

namespace memrec {
namespace {

// The lower and the upper eight of 16 outputs.
struct TwoInts {
    __m256i low, high;
};
struct TwoFloats {
    __m256 low, high;
};

struct Avx2Products : PlainProducts {
    static constexpr int most_rows = 4;
    using FloatSum = TwoFloats;
    using IntSum = TwoInts;

    MEMREC_FORCED static void put(void* to, const TwoFloats& sum) {
        _mm256_storeu_ps(static_cast<float*>(to), sum.low);
        _mm256_storeu_ps(static_cast<float*>(to) + 8, sum.high);
    }
    MEMREC_FORCED static void put(void* to, const TwoInts& sum) {
        _mm256_storeu_si256(static_cast<__m256i*>(to), sum.low);
        _mm256_storeu_si256(static_cast<__m256i*>(to) + 1, sum.high);
    }
    MEMREC_FORCED static void add_bytes(TwoInts& sum, uint32_t word, const uint8_t* line) {
        const __m256i row = spread(word), lower = spread(0x00FF00FF);
        const __m256i even = _mm256_and_si256(row, lower), odd = _mm256_and_si256(_mm256_srli_epi16(row, 8), lower);
        add_to(sum.low, read(line), even, odd);
        add_to(sum.high, read(line + 32), even, odd);
    }
    MEMREC_FORCED static void add_halves(TwoFloats& sum, uint32_t word, const uint8_t* line) {
        const __m256i row = spread(word), upper = spread(0xFFFF0000u);
        const __m256 second = _mm256_castsi256_ps(_mm256_and_si256(row, upper));
        const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(row, 16));
        add_to(sum.low, read(line), first, second);
        add_to(sum.high, read(line + 32), first, second);
    }
    MEMREC_FORCED static void add_singles(TwoFloats& sum, uint32_t word, const uint8_t* line) {
        const __m256 value = _mm256_castsi256_ps(spread(word));
        sum.low = _mm256_fmadd_ps(value, _mm256_castsi256_ps(read(line)), sum.low);
        sum.high = _mm256_fmadd_ps(value, _mm256_castsi256_ps(read(line + 32)), sum.high);
    }

    static float find_largest(const float* row, int64_t count, float& poison) {
        const __m256 sign = _mm256_set1_ps(-0.0f), zero = _mm256_setzero_ps();
        __m256 most = zero, strange = zero;
        for_each_16(row, count, [&](const Floats& values, int64_t) {
            __m256 half[2];
            load(half, &values);
            for (int h = 0; h < 2; ++h) {
                most = _mm256_max_ps(_mm256_andnot_ps(sign, half[h]), most);  // of NaN and a number the latter, as it comes second
                strange = _mm256_add_ps(strange, _mm256_mul_ps(half[h], zero));
            }
        });
        float sizes[8], zeros[8], largest = 0.0f;
        _mm256_storeu_ps(sizes, most);
        _mm256_storeu_ps(zeros, strange);
        for (int n = 0; n < 8; ++n) {
            largest = sizes[n] > largest ? sizes[n] : largest;
            poison += zeros[n];
        }
        return largest;
    }
    MEMREC_FORCED static void put_bytes(uint8_t* to, const Floats& values, float factor, float rounding, int32_t shift) {
        __m256 half[2];
        __m256i whole[2];
        load(half, &values);
        for (int h = 0; h < 2; ++h) {
            const __m256 scaled = _mm256_add_ps(_mm256_mul_ps(half[h], _mm256_set1_ps(factor)), _mm256_set1_ps(rounding));
            const __m256i moved = _mm256_add_epi32(_mm256_castps_si256(scaled), _mm256_set1_epi32(shift));
            whole[h] = _mm256_and_si256(moved, _mm256_set1_epi32(255));  // of NaN too, whose lowest bits are taken elsewhere
        }
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(whole[0], whole[1]), 0xD8);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                         _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
    MEMREC_FORCED static void put_halves(uint16_t* to, const Floats& values) {
        __m256 half[2];
        __m256i narrow[2];
        load(half, &values);
        for (int h = 0; h < 2; ++h) {
            const __m256i bits = _mm256_castps_si256(half[h]);
            const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
            const __m256i more = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
            const __m256i number = _mm256_castps_si256(_mm256_cmp_ps(half[h], half[h], _CMP_ORD_Q));
            narrow[h] = _mm256_blendv_epi8(_mm256_set1_epi32(0x7FC0), _mm256_srli_epi32(more, 16), number);
        }
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(narrow[0], narrow[1]), 0xD8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
    }

  private:
    MEMREC_FORCED static __m256i spread(uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
    MEMREC_FORCED static __m256i read(const uint8_t* line) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line)); }

    // Four weights of each output times four values of a row, widened to sixteen bits: 0 and 2, 1 and 3.
    MEMREC_FORCED static void add_to(__m256i& sum, const __m256i& weights, const __m256i& even, const __m256i& odd) {
        const __m256i of_even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8), of_odd = _mm256_srai_epi16(weights, 8);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(of_even, even));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(of_odd, odd));
    }
    // Two weights of each output, the upper first.
    MEMREC_FORCED static void add_to(__m256& sum, const __m256i& weights, const __m256& first, const __m256& second) {
        const __m256i upper = spread(0xFFFF0000u);
        sum = _mm256_fmadd_ps(second, _mm256_castsi256_ps(_mm256_and_si256(weights, upper)), sum);
        sum = _mm256_fmadd_ps(first, _mm256_castsi256_ps(_mm256_slli_epi32(weights, 16)), sum);
    }
};

// Eight of the sixteen lanes of two by four products, from `first` on, summed.
MEMREC_FORCED __m256 multiply_eight(const float* const* own, const float* const* others, int64_t first, int64_t width) {
    __m256 sums[8];
    for (__m256& sum : sums) sum = _mm256_setzero_ps();
    for (int64_t k = first; k < width; k += kLanes)
        for (int m = 0; m < 2; ++m) {
            const __m256 left = _mm256_loadu_ps(own[m] + k);
            for (int n = 0; n < 4; ++n) sums[4 * m + n] = fuse(sums[4 * m + n], left, _mm256_loadu_ps(others[n] + k));
        }
    __m256 fours[2];  // as `add_lanes` does: neighbours, then pairs of neighbours, and so on
    for (int m = 0; m < 2; ++m)
        fours[m] = _mm256_hadd_ps(_mm256_hadd_ps(sums[4 * m], sums[4 * m + 1]), _mm256_hadd_ps(sums[4 * m + 2], sums[4 * m + 3]));
    return _mm256_add_ps(_mm256_permute2f128_ps(fours[0], fours[1], 0x20), _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
}

// Two by four products at a time, the lower lanes before the upper: as many sums as there are registers.
void multiply_pairs_in_halves(const float* vectors, int64_t count, int64_t width, const int32_t* place, float* out) {
    for (int64_t i = 0; i < count; i += 2) {
        const float* own[2];  // past the last vector comes the last one again
        for (int64_t n = 0; n < 2; ++n) own[n] = vectors + (i + n < count ? i + n : count - 1) * width;
        for (int64_t j = 0; j <= i + 1 && j < count; j += 4) {
            const float* others[4];
            for (int64_t n = 0; n < 4; ++n) others[n] = vectors + (j + n < count ? j + n : count - 1) * width;
            float found[8];
            _mm256_storeu_ps(found, _mm256_add_ps(multiply_eight(own, others, 0, width), multiply_eight(own, others, 8, width)));
            for (int64_t m = 0; m < 2 && i + m < count; ++m) {
                const int32_t* at = place + (i + m) * count + j;
                for (int64_t n = 0; n < 4 && j + n <= i + m; ++n)
                    if (at[n] >= 0) out[at[n]] = found[4 * m + n];
            }
        }
    }
}

const DenseKernel kernel = {"avx2", false, true, Avx2Products::most_rows, kSmallCache, run_layer<Avx2Products>,
                            multiply_pairs_in_halves, pull_pairs<Avx2Products>};

}  // namespace

const DenseKernel* avx2_dense() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
struct DenseKernel;
const DenseKernel* avx2_dense() { return nullptr; }
}  // namespace memrec
#endif
