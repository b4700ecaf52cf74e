// Products on any machine.
#include "products.h"
#include "tile_scalar.h"

namespace memrec {
namespace {
const Products products = {"scalar", multiply_by_tiles<ScalarTile>};
}  // namespace
const Products* scalar_products() { return &products; }
}  // namespace memrec
