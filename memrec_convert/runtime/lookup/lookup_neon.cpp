// The kernel in NEON, which every AArch64 machine has.
#include "tables.h"

#if defined(__aarch64__) || defined(_M_ARM64)
#include "lookup.h"
#include "simd_neon.h"

namespace memrec {
namespace {

struct NeonKernel {
    using Wide = Neon;
    template <class F>
    MEMREC_INLINE static void for_rest(int dim, int column, F f) {
        for_last(dim, column, f);
    }
    // Whether one of n ids, side by side, is at or past `rows`.
    static bool any_at_or_past(const uint64_t* ids, int64_t n, uint64_t rows) {
        uint64_t outside = 0;
        for (int64_t i = 0; i < n; ++i) outside |= static_cast<uint64_t>(load_at<uint64_t>(ids, i) >= rows);
        return outside != 0;
    }
    static float to_float(uint16_t half) { return half_to_float(half); }
    static void read_run(const Run& run, uint64_t word, int32_t dim, const int8_t** tokens) {
        read_run_by_one(run, word, dim, tokens);
    }
    template <int planes>
    static void weigh_bits(const uint64_t* words, const uint8_t* weights, int8_t* out) {
        const uint8x16_t own_bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
        for (int part = 0; part < 4; ++part) {
            uint8x16_t sum = vdupq_n_u8(1);
            for (int p = 0; p < planes; ++p) {
                const auto word = static_cast<uint32_t>(words[p] >> (16 * part));
                const uint8x16_t bytes = vcombine_u8(vdup_n_u8(static_cast<uint8_t>(word)), vdup_n_u8(static_cast<uint8_t>(word >> 8)));
                sum = vorrq_u8(sum, vandq_u8(vtstq_u8(bytes, own_bit), vdupq_n_u8(weights[p])));
            }
            vst1q_s8(out + 16 * part, vreinterpretq_s8_u8(sum));
        }
    }
    static void fence() {}
    static int find_key(const Index& index, uint64_t first, int count, uint32_t key) {
        return find_key_by_one(index, first, count, key);
    }
    static uint32_t match_line(const KeyLine& line, uint16_t key, uint32_t held) {
        return match_line_by_one(line, key, held);
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
            count += vaddv_u8(vcnt_u8(vcreate_u8(load_64(line + 8 * word) & mask)));
        }
        return count;
    }
};

const Kernel kernel = {"neon", Lookup<NeonKernel>::run, any_outside<NeonKernel>, sum_rows<NeonKernel>};

}  // namespace

const Kernel* neon_kernel() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
const Kernel* neon_kernel() { return nullptr; }
}  // namespace memrec
#endif
