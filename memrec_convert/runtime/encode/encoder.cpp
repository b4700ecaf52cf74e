#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "products/products.h"

namespace memrec {
namespace {

constexpr float kBeyond = 3e38f;  // above every score, and finite whatever its lowest bits become
constexpr float kWhole = 3 << 22;  // floats near it are whole numbers, so a small one that is added is rounded
constexpr int kRowsAtOnce = 8;     // whose norms are summed side by side, each in the order of its entries

bool all_finite(const float* values, int64_t count) {
    return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

// Values times a factor to the nearest whole numbers, which are returned summed: of values that the factor brings to 127 at most.
int32_t round_small(const float* values, int32_t count, float factor, int8_t* to) {
    int32_t sum = 0;
    for (int32_t k = 0; k < count; ++k) {
        const auto whole = static_cast<int32_t>((values[k] * factor + kWhole) - kWhole);
        to[k] = static_cast<int8_t>(whole);
        sum += whole;
    }
    return sum;
}

// The same of any values and factors.
int32_t round_any(const float* values, int32_t count, float factor, int8_t* to) {
    int32_t sum = 0;
    for (int32_t k = 0; k < count; ++k) {
        to[k] = static_cast<int8_t>(std::lrint(std::min(127.0f, std::max(-127.0f, values[k] * factor))));
        sum += to[k];
    }
    return sum;
}

// The largest |value| of whole vectors of 16.
float widest_of(const float* values, int64_t count) {
    float most[16] = {};
    for (int64_t i = 0; i < count; i += 16)
        for (int lane = 0; lane < 16; ++lane) most[lane] = std::max(most[lane], std::fabs(values[i + lane]));
    return *std::max_element(most, most + 16);
}

// |row|^2 / 2 of some rows of `width` floats.
void halve_norms(const float* rows, int64_t count, int64_t width, float* halves) {
    for (int64_t first = 0; first < count; first += kRowsAtOnce) {
        const int64_t n = std::min<int64_t>(kRowsAtOnce, count - first);
        double norms[kRowsAtOnce] = {};
        for (int64_t k = 0; k < width; ++k)
            for (int64_t row = 0; row < n; ++row) {
                const double value = rows[(first + row) * width + k];
                norms[row] += value * value;
            }
        for (int64_t row = 0; row < n; ++row) halves[first + row] = static_cast<float>(norms[row] / 2);
    }
}

void fill_quick(Book& book, const float* entries, int32_t dim) {
    const int64_t rows = book.quick_rows;
    const float widest = widest_of(book.entries.data(), static_cast<int64_t>(book.entries.size()));
    book.unit = widest / 127;
    const float inverse = widest > 0 ? 127 / widest : 0;
    book.quick_stride = (dim + kGroup - 1) / kGroup * kGroup;
    book.quick.assign(static_cast<size_t>(rows * book.quick_stride + kSpare), 0);
    book.sums.assign(static_cast<size_t>(rows), 0);
    book.half_norms.resize(static_cast<size_t>(rows), kBeyond);
    const bool plain = std::isfinite(inverse) && all_finite(book.half_norms.data(), book.size);
    const auto round = plain ? round_small : round_any;
    for (int64_t row = 0; row < book.size; ++row)
        book.sums[static_cast<size_t>(row)] = round(entries + row * dim, dim, inverse, book.quick.data() + row * book.quick_stride);
    book.wide.assign(book.quick.begin(), book.quick.end());
}

}  // namespace

Book make_book(const float* entries, int32_t size, int32_t dim) {
    Book book;
    book.size = size;
    book.width = (dim + 15) / 16 * 16;
    if (size > 4) book.quick_rows = (size + 7) / 8 * 8;
    if (book.width == dim) book.entries.assign(entries, entries + static_cast<int64_t>(size) * dim);
    else book.entries.assign(static_cast<size_t>(size) * static_cast<size_t>(book.width), 0);
    book.half_norms.resize(static_cast<size_t>(size));
    for (int64_t row = 0; book.width != dim && row < size; ++row)
        std::memcpy(&book.entries[static_cast<size_t>(row * book.width)], entries + row * dim, static_cast<size_t>(dim) * 4);
    halve_norms(book.entries.data(), size, book.width, book.half_norms.data());
    if (book.quick_rows) fill_quick(book, entries, dim);
    return book;
}

std::vector<Book> make_books(const float* centres, int64_t count, int32_t dim) {
    std::vector<Book> books;
    for (int64_t first = 0; first < count; first += kMostEntries)
        books.push_back(make_book(centres + first * dim, static_cast<int32_t>(std::min<int64_t>(kMostEntries, count - first)), dim));
    return books;
}

const Encoder* choose_encoder(const char* engine) {
    const bool wide = !std::strcmp(engine, "avx512") || !std::strcmp(engine, "amx");
    if (wide && amx_encoder() && take_tiles()) return amx_encoder();
    const char* name = choose_products(engine)->name;
    for (const Encoder* one : {avx512_encoder(), avx_vnni_encoder(), avx2_encoder(), neon_encoder()})
        if (one && !std::strcmp(one->name, name)) return one;
    return scalar_encoder();
}

}  // namespace memrec
