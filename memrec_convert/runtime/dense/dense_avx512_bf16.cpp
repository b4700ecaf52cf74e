// Layers in AVX-512 with VNNI and products of bf16, as Cooper Lake, Sapphire Rapids and Zen 4 have them.
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "bf16.h"

namespace memrec {
namespace {

const DenseKernel kernel = {"avx512 bf16", true, true, kMostRows, kSmallCache, run_layer<Bf16Products>,
                            multiply_pairs, pull_pairs<Bf16Products>};

}  // namespace

const DenseKernel* avx512_bf16_dense() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
struct DenseKernel;
const DenseKernel* avx512_bf16_dense() { return nullptr; }
}  // namespace memrec
#endif
