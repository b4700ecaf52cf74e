// Rows to codes: for each row the entries, one per stage, whose sum comes near it.
//
// A row less its centre, in the metric, is a point. Which entries lie near a point is asked in integers: points and entries
// as int8, each point and each codebook with a scale of its own. Among the best four the exact distance decides, and that
// is summed in one order on every machine: 16 sums of every 16th square, folded in halves, nothing fused. So codes and
// distances have the same bits on every instruction set where the points are finite; ties go to the lower number. In one or
// two dimensions more than four of many entries may be as near as int8 can tell; the best of four of them is taken then.
#pragma once

#include <cstdint>
#include <vector>

#include "lines.h"

namespace memrec {

constexpr int kMostCoded = 64, kMostBeam = 64, kMostEntries = 256;
constexpr int kSpare = 64;  // bytes that may be read past the last quick row

// The entries of one stage (or up to 256 of more centres), in the metric, and what is asked first.
struct Book {
    int32_t size = 0, width = 0;        // width: dim rounded up to 16
    int32_t quick_rows = 0;             // size rounded up to 8; 0 where entries are so few that all are candidates
    int64_t quick_stride = 0;
    float unit = 0;                     // of the int8 entries
    Lines<float> entries;               // [size, width], zeros past dim
    std::vector<float> half_norms;      // |entry|^2 / 2, past the last entry beyond all scores
    Lines<int8_t> quick;                // [quick_rows, quick_stride], and kSpare bytes more
    Lines<int16_t> wide;                // quick as int16, for products of pairs
    std::vector<int32_t> sums;          // of the quick rows
};

Book make_book(const float* entries, int32_t size, int32_t dim);
std::vector<Book> make_books(const float* centres, int64_t count, int32_t dim);  // of up to 256 of them each

enum class RowKind : int32_t { fp32 = 0, bf16 = 1, fp16 = 2 };

struct RowSource {
    const void* data;
    RowKind kind;
    int64_t stride;       // in elements
    int64_t count;
    int32_t dim;
    const float* centre;  // [dim] or null
    const float* metric;  // [dim, dim], points are rows times it; null: the identity
    const float* others;  // [count, dim], what is subtracted from each row in place of the centre, or null
};

struct Coding {
    RowSource rows;
    const Book* books;
    int32_t stages;
    const int8_t* depths;  // stages of each row, below zero: not coded; null: all of them
    int32_t beam;          // partial codes kept, each extended by its two nearest entries; 1: greedy
    uint8_t* codes;        // [count, stages], zeros beyond a row's depth
    float* distances;      // squared: [count] at its depth, or with each_depth [stages + 1, count]
    bool each_depth;       // greedy alone
};

struct Assigning {
    RowSource rows;
    const Book* books;  // of up to 256 centres each
    int32_t book_count;
    int64_t* nearest;
    float* distances;   // squared
};

struct Pulled {
    const float* gradients;  // [count, dim], each `stride` floats after the one before
    int64_t count, dim, stride;
    const double* shares;    // what each row's products are times, or null
    double* moment;          // [dim, dim]: the sum of share * gradient * gradient^T
};

struct Encoder {
    const char* name;
    void (*code)(const Coding&);  // these throw std::bad_alloc alone
    void (*assign)(const Assigning&);
    void (*measure)(const RowSource&, float* squared, float* widest);  // |point|^2, and the largest |row - centre| (or null)
    void (*transform)(const RowSource&, float* points, int64_t stride);
    // Solves matrix * solution = right for a positive definite matrix [n, n], of which the lower triangle is read and nothing
    // of use is left; right [n, width] becomes the solution. False where the matrix is not positive definite.
    bool (*solve)(double* matrix, int64_t n, double* right, int64_t width);
    void (*sum_moment)(const Pulled&);
    // The eigenvalues of a symmetric matrix [n, n], rising; the matrix becomes its eigenvectors, a row each. False where there
    // are none: numbers that are not finite.
    bool (*spectrum)(double* matrix, int64_t n, double* values);
};

const Encoder* amx_encoder();  // null where this build has none
const Encoder* avx512_encoder();
const Encoder* avx_vnni_encoder();
const Encoder* avx2_encoder();
const Encoder* neon_encoder();
const Encoder* scalar_encoder();

// The encoder that goes with an instruction set of the engine: with AVX-512 that of AMX, where there is one.
const Encoder* choose_encoder(const char* engine);

}  // namespace memrec
