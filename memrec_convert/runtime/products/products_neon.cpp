// Products in NEON, which every AArch64 machine has.
#include "products.h"

#if defined(__aarch64__) || defined(_M_ARM64)
#include "tile_neon.h"

namespace memrec {
namespace {
const Products products = {"neon", multiply_by_tiles<NeonTile>};
}  // namespace
const Products* neon_products() { return &products; }
}  // namespace memrec
#else
namespace memrec {
const Products* neon_products() { return nullptr; }
}  // namespace memrec
#endif
