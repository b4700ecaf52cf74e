#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "products/products.h"

namespace memrec {
namespace {

constexpr float kBeyond = 3e38f;  // above every score, and finite whatever its lowest bits become

void fill_quick(Book& book, const float* entries, int32_t dim) {
    const int64_t rows = book.quick_rows;
    float widest = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(book.size) * dim; ++i) widest = std::max(widest, std::fabs(entries[i]));
    book.unit = widest / 127;
    const float inverse = widest > 0 ? 127 / widest : 0;
    book.quick_stride = (dim + kGroup - 1) / kGroup * kGroup;
    book.quick.assign(static_cast<size_t>(rows * book.quick_stride + kSpare), 0);
    book.sums.assign(static_cast<size_t>(rows), 0);
    book.half_norms.resize(static_cast<size_t>(rows), kBeyond);
    for (int64_t row = 0; row < book.size; ++row)
        for (int32_t k = 0; k < dim; ++k)
            book.quick[static_cast<size_t>(row * book.quick_stride + k)] =
                static_cast<int8_t>(std::lrint(std::min(127.0f, std::max(-127.0f, entries[row * dim + k] * inverse))));
    sum_rows_of(book.quick.data(), book.quick_stride, rows, book.quick_stride, book.sums.data());
}

}  // namespace

Book make_book(const float* entries, int32_t size, int32_t dim) {
    Book book;
    book.size = size;
    book.width = (dim + 15) / 16 * 16;
    if (size > 4) book.quick_rows = (size + 7) / 8 * 8;
    book.entries.assign(static_cast<size_t>(size) * static_cast<size_t>(book.width), 0);
    book.half_norms.resize(static_cast<size_t>(size));
    for (int64_t row = 0; row < size; ++row) {
        std::memcpy(&book.entries[static_cast<size_t>(row * book.width)], entries + row * dim, static_cast<size_t>(dim) * 4);
        double norm = 0;
        for (int32_t k = 0; k < dim; ++k) norm += static_cast<double>(entries[row * dim + k]) * entries[row * dim + k];
        book.half_norms[static_cast<size_t>(row)] = static_cast<float>(norm / 2);
    }
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
