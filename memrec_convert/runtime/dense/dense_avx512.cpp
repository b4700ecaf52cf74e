// Layers in AVX-512 with VNNI.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "vnni.h"

namespace memrec {
namespace {

const DenseKernel kernel = {"avx512", false, true, kMostRows, kSmallCache, run_layer<VnniProducts>,
                            multiply_pairs, pull_pairs<VnniProducts>};

}  // namespace

const DenseKernel* avx512_dense() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
struct DenseKernel;
const DenseKernel* avx512_dense() { return nullptr; }
}  // namespace memrec
#endif
