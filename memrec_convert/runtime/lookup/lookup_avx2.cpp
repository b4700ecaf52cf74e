// The kernel in AVX2 with F16C, FMA left unused so that sums have the same bits everywhere.
#include "tables.h"

#if defined(__AVX2__)
#include "lookup.h"
#include "simd_avx2.h"

namespace memrec {
namespace {

struct Avx2Kernel {
    using Wide = Avx2;
    template <class F>
    MEMREC_INLINE static void for_rest(int dim, int column, F f) {
        for_one<Avx2Half>(dim, column, f);
        for_one<Avx2Quarter>(dim, column, f);
        for_last(dim, column, f);
    }
    // Whether one of n ids, side by side, is at or past `rows`, which is below 2**63.
    static bool any_at_or_past(const uint64_t* ids, int64_t n, uint64_t rows) {
        const __m256i last = _mm256_set1_epi64x(static_cast<int64_t>(rows) - 1);
        __m256i outside = _mm256_setzero_si256();
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) {
            const __m256i four = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ids + i));
            outside = _mm256_or_si256(outside, _mm256_or_si256(_mm256_cmpgt_epi64(four, last), four));  // or negative
        }
        uint64_t rest = 0;
        for (; i < n; ++i) rest |= static_cast<uint64_t>(load_at<uint64_t>(ids, i) >= rows);
        return _mm256_movemask_pd(_mm256_castsi256_pd(outside)) != 0 || rest != 0;
    }
    static float to_float(uint16_t half) { return _cvtsh_ss(half); }
    static void read_run(const Run& run, uint64_t word, int32_t dim, const int8_t** tokens) {
        const __m256i words = _mm256_set1_epi64x(static_cast<int64_t>(word)), width = _mm256_set1_epi64x(dim);
        for (int s = 0; s < kRun; s += 4) {
            const auto of = [&](const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); };
            const __m256i entry = _mm256_and_si256(_mm256_srlv_epi64(words, of(run.shift + s)), of(run.mask + s));
            const __m256i at = _mm256_add_epi64(_mm256_mul_epu32(entry, width), of(run.start + s));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(tokens + s), at);
        }
    }
    template <int planes>
    static void weigh_bits(const uint64_t* words, const uint8_t* weights, int8_t* out) {
        const __m256i own_byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i own_bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
        for (int half = 0; half < 2; ++half) {
            __m256i sum = _mm256_set1_epi8(1);
            for (int p = 0; p < planes; ++p) {
                const __m256i word = _mm256_set1_epi32(static_cast<int32_t>(words[p] >> (32 * half)));
                const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(word, own_byte), own_bit), own_bit);
                sum = _mm256_or_si256(sum, _mm256_and_si256(set, _mm256_set1_epi8(static_cast<char>(weights[p]))));
            }
            _mm256_store_si256(reinterpret_cast<__m256i*>(out) + half, sum);
        }
    }
    static void fence() { _mm_sfence(); }
    static int find_key(const Index& index, uint64_t first, int count, uint32_t key) {
        return find_key_by_one(index, first, count, key);
    }
    static uint32_t match_line(const KeyLine& line, uint16_t key, uint32_t held) {
        const auto* words = reinterpret_cast<const __m256i*>(&line);
        const __m256i sought = _mm256_set1_epi16(static_cast<int16_t>(key));
        const __m256i low = _mm256_cmpeq_epi16(_mm256_loadu_si256(words), sought);
        const __m256i high = _mm256_cmpeq_epi16(_mm256_loadu_si256(words + 1), sought);
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xD8);
        return _bzhi_u32(static_cast<uint32_t>(_mm256_movemask_epi8(both)) >> (32 - kKeysPerLine), held);
    }

    static int split(const int64_t* places, uint16_t* list, int n, uint16_t* members) {
        return split_by_one(places, list, n, members, list);
    }

    static uint64_t count_before(const uint8_t* line, uint32_t bit) {
        uint64_t count = 0;
        const uint32_t last = bit >> 6;
        for (uint32_t word = 0; word < 8; ++word) {
            uint64_t mask = word < last ? ~0ull : word == last ? (1ull << (bit & 63)) - 1 : 0;
            if (word == 0) mask &= ~0xFFFFFFFFull;
            count += static_cast<uint64_t>(_mm_popcnt_u64(load_64(line + 8 * word) & mask));
        }
        return count;
    }
};

const Kernel kernel = {"avx2", Lookup<Avx2Kernel>::run, any_outside<Avx2Kernel>, sum_rows<Avx2Kernel>};

}  // namespace

const Kernel* avx2_kernel() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
const Kernel* avx2_kernel() { return nullptr; }
}  // namespace memrec
#endif
