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

const DenseKernel kernel = {"avx2", false, true, Avx2Products::most_rows, kSmallCache, run_layer<Avx2Products>, multiply_pairs, pull_pairs};

}  // namespace

const DenseKernel* avx2_dense() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
struct DenseKernel;
const DenseKernel* avx2_dense() { return nullptr; }
}  // namespace memrec
#endif
