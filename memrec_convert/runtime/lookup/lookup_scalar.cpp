// The kernel in plain C++, for every machine.
#include "lookup.h"

namespace memrec {
namespace {

struct Scalar {
    using Wide = Plain<8>;
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
        weigh_bits_by_one<planes>(words, weights, out);
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
        for (uint32_t word = 0; word <= (bit >> 6); ++word) {
            uint64_t bits = load_64(line + 8 * word);
            if (word == 0) bits &= ~0xFFFFFFFFull;
            if (word == (bit >> 6)) bits &= (1ull << (bit & 63)) - 1;
            bits -= (bits >> 1) & 0x5555555555555555ull;
            bits = (bits & 0x3333333333333333ull) + ((bits >> 2) & 0x3333333333333333ull);
            bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0Full;
            count += (bits * 0x0101010101010101ull) >> 56;
        }
        return count;
    }
};

const Kernel kernel = {"scalar", Lookup<Scalar>::run, any_outside<Scalar>, sum_rows<Scalar>};

}  // namespace

const Kernel* scalar_kernel() { return &kernel; }

}  // namespace memrec
