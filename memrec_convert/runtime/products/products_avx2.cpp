// Products in AVX2.
#include "products.h"

#if defined(__AVX2__)
#include "tile_avx2.h"

namespace memrec {
namespace {
const Products products = {"avx2", multiply_by_tiles<Avx2Tile>};
}  // namespace
const Products* avx2_products() { return &products; }
}  // namespace memrec
#else
namespace memrec {
const Products* avx2_products() { return nullptr; }
}  // namespace memrec
#endif
