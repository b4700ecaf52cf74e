// Layers in AVX2 and FMA: bytes widened to sixteen bits, whose products in pairs cannot overflow.
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include "products.h"

namespace memrec {
namespace {

struct Avx2Products : PlainProducts {
    MEMREC_FORCED static void add_bytes(Ints& sum, uint32_t word, const uint8_t* line) {
        const __m256i row = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(static_cast<int>(word))));
        __m256i parts[4];  // of four outputs each: two sums for every one
        for (int q = 0; q < 4; ++q) {
            const __m128i weights = _mm_loadu_si128(reinterpret_cast<const __m128i*>(line + 16 * q));
            parts[q] = _mm256_madd_epi16(_mm256_cvtepi8_epi16(weights), row);
        }
        __m256i both[2];
        std::memcpy(both, &sum, sizeof both);
        for (int h = 0; h < 2; ++h) {
            const __m256i added = _mm256_hadd_epi32(parts[2 * h], parts[2 * h + 1]);
            both[h] = _mm256_add_epi32(both[h], _mm256_permute4x64_epi64(added, 0xD8));
        }
        std::memcpy(&sum, both, sizeof both);
    }
    MEMREC_FORCED static void add_halves(Floats& sum, uint32_t word, const uint8_t* line) {
        const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u)), row = _mm256_set1_epi32(static_cast<int>(word));
        const __m256 second = _mm256_castsi256_ps(_mm256_and_si256(row, upper));
        const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(row, 16));
        __m256 both[2];
        std::memcpy(both, &sum, sizeof both);
        for (int h = 0; h < 2; ++h) {
            const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 32 * h));
            both[h] = _mm256_fmadd_ps(second, _mm256_castsi256_ps(_mm256_and_si256(weights, upper)), both[h]);
            both[h] = _mm256_fmadd_ps(first, _mm256_castsi256_ps(_mm256_slli_epi32(weights, 16)), both[h]);
        }
        std::memcpy(&sum, both, sizeof both);
    }
};

const DenseKernel kernel = {"avx2", false, true, kMostRows, kSmallCache, run_layer<Avx2Products>, multiply_pairs, pull_pairs};

}  // namespace

const DenseKernel* avx2_dense() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
struct DenseKernel;
const DenseKernel* avx2_dense() { return nullptr; }
}  // namespace memrec
#endif
