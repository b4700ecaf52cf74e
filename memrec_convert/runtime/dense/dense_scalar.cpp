// Layers in plain C++, and which instruction set a network runs on.
#include <cstring>

#include "core/cpu.h"
#include "products.h"

namespace memrec {
namespace {

const DenseKernel kernel = {"scalar", false, false, kMostRows, kSmallCache, run_layer<PlainProducts>,
                            multiply_pairs, pull_pairs<PlainProducts>};

}  // namespace

const DenseKernel* scalar_dense() { return &kernel; }

const DenseKernel& find_dense_kernel(const char* name) {
    static const Features features = detect_features();
    const bool best = std::strcmp(name, "avx512") == 0;
    if (best && amx_dense() && take_tiles()) return *amx_dense();
    if (best && features.avx512_bf16 && avx512_bf16_dense()) return *avx512_bf16_dense();
    if (best && features.avx512_vnni && avx512_dense()) return *avx512_dense();
    if ((best || std::strcmp(name, "avx2") == 0) && avx2_dense()) return *avx2_dense();
    return *scalar_dense();
}

}  // namespace memrec
