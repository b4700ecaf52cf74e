// The products of panels.h by the best instruction set that this build and this machine have.
#pragma once

#include "panels.h"

namespace memrec {

struct Products {
    const char* name;
    // out[row * out_stride + column], for `rows` rows of a; sums are those of sum_rows_of. Throws nothing.
    void (*multiply)(const int8_t* a, int64_t a_stride, int64_t rows, const int32_t* sums, const Panels& panels, int32_t* out,
                     int64_t out_stride);
};

const Products* avx512_products();   // null where this build has none
const Products* avx_vnni_products();
const Products* avx2_products();
const Products* neon_products();
const Products* scalar_products();

const Products* const* available_products();  // best first, null after the last

// The best that goes with an instruction set of the engine ("avx512", "avx2", "neon", "scalar"); of all for other names.
const Products* choose_products(const char* engine);

}  // namespace memrec
