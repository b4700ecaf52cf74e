// Multiplies random int8 matrices of every awkward shape through each instruction set and compares all sums with plain
// loops. Prints a line per instruction set.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "products/products.h"

namespace {

uint64_t state = 1;

uint64_t draw() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return state >> 33;
}

// Extremes are as frequent as everything between, for sums of saturated pairs would show there.
int8_t draw_value() {
    const uint64_t kind = draw() % 4;
    return kind == 0 ? -128 : kind == 1 ? 127 : static_cast<int8_t>(draw());
}

bool is_right(const memrec::Products& products, int64_t m, int64_t n, int64_t k, int64_t spare) {
    const int64_t stride = k + spare, out_stride = n + spare;
    std::vector<int8_t> a(m * stride), b(n * k), memory(memrec::panel_bytes(k) * memrec::panel_count(n));
    std::vector<int32_t> sums(m), out(m * out_stride, 7);
    for (int8_t& value : a) value = draw_value();
    for (int8_t& value : b) value = draw_value();
    for (int64_t p = 0; p < memrec::panel_count(n); ++p)
        memrec::pack_panel(b.data() + 16 * p * k, k, n - 16 * p, k, memory.data() + p * memrec::panel_bytes(k));
    memrec::sum_rows_of(a.data(), stride, m, k, sums.data());
    products.multiply(a.data(), stride, m, sums.data(), {memory.data(), n, k}, out.data(), out_stride);
    for (int64_t row = 0; row < m; ++row)
        for (int64_t column = 0; column < out_stride; ++column) {
            int32_t expected = column < n ? 0 : 7;  // past the columns nothing is written
            for (int64_t i = 0; column < n && i < k; ++i) expected += a[row * stride + i] * b[column * k + i];
            if (out[row * out_stride + column] != expected) return false;
        }
    return true;
}

}  // namespace

int main() {
    int wrong = 0;
    for (const memrec::Products* const* one = memrec::available_products(); *one; ++one) {
        int cases = 0, bad = 0;
        for (int64_t m : {0, 1, 2, 3, 7, 8, 9, 17})
            for (int64_t n : {1, 15, 16, 17, 31, 33, 48, 70})
                for (int64_t k : {1, 2, 3, 4, 5, 16, 63, 128, 257}) {
                    ++cases;
                    bad += !is_right(**one, m, n, k, static_cast<int64_t>(draw() % 5));
                }
        std::printf("%s: %d cases, %d wrong\n", (*one)->name, cases, bad);
        wrong += bad;
    }
    return wrong != 0;
}
