#include "products.h"

#include "core/cpu.h"

namespace memrec {
namespace {

struct Available {
    const Products* products[6] = {};  // null after the last
    Available() {
        int count = 0;
        const Features features = detect_features();
        if (features.avx512_vnni && avx512_products()) products[count++] = avx512_products();
        if (features.avx_vnni && avx_vnni_products()) products[count++] = avx_vnni_products();
        if (features.avx2 && avx2_products()) products[count++] = avx2_products();
        if (neon_products()) products[count++] = neon_products();
        products[count] = scalar_products();
    }
};

}  // namespace

const Products* const* available_products() {
    static const Available available;
    return available.products;
}

const Products* choose_products(const char* engine) {
    const Products* const* best = available_products();
    if (!std::strcmp(engine, "scalar")) return scalar_products();
    if (!std::strcmp(engine, "avx2") && *best == avx512_products()) return best[1];
    return best[0];
}

}  // namespace memrec
