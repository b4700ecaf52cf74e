// Whole networks by blocks of samples: lookups, interaction and layers of a block one after the other, so that embeddings
// and activations stay in the second-level cache. A sample's logit does not depend on the block that it falls into.
#pragma once

#include <vector>

#include "core/threads.h"
#include "kernel.h"
#include "lookup/tables.h"

namespace memrec {

// What stands between the tables and the top: products of pairs; nothing; cross layers; a factorisation machine.
enum class Interaction : int32_t { pairs = 0, joined = 1, crossed = 2, factors = 3 };

enum class Linear : int32_t { none = 0, rows = 1, dense = 2 };  // what the first order of a factorisation machine weighs

struct Network {
    Interaction interaction;
    std::vector<const Layer*> bottom, cross, top;  // cross: two for each cross layer
    int64_t dense_inputs = 0;
    std::vector<int64_t> widths;  // of the tables' vectors
    std::vector<int32_t> places;  // of pairs, for (tables + 1)^2 of them; -1 for what is no pair
    int64_t fields = 0;           // factors: of the first tables; the others add their one column to the logit
    Linear linear = Linear::none;
    const float* first_order = nullptr;

    int64_t products() const;  // of layers, per sample
};

// Rows of float32, `stride` floats apart.
struct RowsIn {
    const float* start;
    int64_t stride, count;
};

// One layer by itself, block by block; false without memory.
bool run_layer(const Layer& layer, const DenseKernel& kernel, const RowsIn& rows, float* out, int64_t out_stride, Pool* pool,
               int threads);

// A block's inputs: dense features by rows, and either ids (a request's bags, one id per sample) or vectors side by side.
struct Samples {
    int64_t count;
    const float* dense;
    int64_t dense_stride;
    const Bags* bags;  // one per table, or null; where their vectors go is not read
    const struct Kernel* lookup;
    const float* vectors;
    int64_t vector_stride;
};

enum class Outcome { done, outside, memory };  // outside: an id is, and the logits mean nothing

// Logits of all samples, on at most `threads` threads of the pool, which may be null; `block` samples at a time, or as many
// as the caches hold where it is 0.
Outcome run_network(const Network& network, const DenseKernel& kernel, const Samples& samples, float* logits, Pool* pool,
                    int threads, int64_t block);

}  // namespace memrec
