// Products in AVX2 with AVX-VNNI, as Alder Lake and Zen 5 have it.
#include "products.h"

#if defined(__AVXVNNI__)
#include "tile_avx2.h"

namespace memrec {
namespace {
const Products products = {"avx_vnni", multiply_by_tiles<AvxVnniTile>};
}  // namespace
const Products* avx_vnni_products() { return &products; }
}  // namespace memrec
#else
namespace memrec {
const Products* avx_vnni_products() { return nullptr; }
}  // namespace memrec
#endif
