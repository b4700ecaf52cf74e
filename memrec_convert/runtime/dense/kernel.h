// What one instruction set offers to networks: linear layers, and the products of pairs of vectors.
#pragma once

#include "layer.h"

namespace memrec {

// Rows as a layer's products take them: words, a layer's stride from row to row, and what an int8 row is to be multiplied by.
// There is room for whole tiles of rows.
struct Operand {
    uint32_t* words;
    float* scale;
};

struct DenseKernel {
    const char* name;
    bool fast_bf16, fast_int8;  // whether the processor has instructions for these products
    int64_t rows;               // that are multiplied together
    int64_t cache_bytes;        // of a second-level cache

    // out[r] = layer(rows[r]), with room for whole columns in each row of `out` where `padded`; `out` may be `rows`.
    void (*run)(const Layer&, const float* rows, int64_t stride, int64_t count, const Operand& scratch, float* out,
                int64_t out_stride, bool padded);

    // out[place[i * vectors + j]] = vectors i and j multiplied, for j <= i where the place is not negative. Vectors are
    // `width` floats apart and as long, a multiple of 16.
    void (*pairs)(const float* vectors, int64_t count, int64_t width, const int32_t* place, float* out);

    // The way back: out[i] = the sum over j of pulls[place of i and j] * vectors[j], twice for j = i. Laid out as above;
    // `square` has room for [count, count].
    void (*pull_pairs)(const float* vectors, int64_t count, int64_t width, const int32_t* place, const float* pulls, float* square,
                       float* out);
};

// Of this instruction set as lookups name it, or of the best that this machine has below it. Int8 layers give the same bits
// on all of them.
const DenseKernel& find_dense_kernel(const char* name);

const DenseKernel* scalar_dense();
const DenseKernel* avx2_dense();    // null where this build has none
const DenseKernel* avx512_dense();  // F, BW, VL, VNNI
const DenseKernel* avx512_bf16_dense();
const DenseKernel* amx_dense();

}  // namespace memrec
