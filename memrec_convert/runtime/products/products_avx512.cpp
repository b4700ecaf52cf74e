// Products in AVX-512 with VNNI, as Ice Lake and Zen 4 have it.
#include "products.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "tile_avx512.h"

namespace memrec {
namespace {
const Products products = {"avx512", multiply_by_tiles<Avx512Tile>};
}  // namespace
const Products* avx512_products() { return &products; }
}  // namespace memrec
#else
namespace memrec {
const Products* avx512_products() { return nullptr; }
}  // namespace memrec
#endif
