// Four products of bytes in one instruction, as Ice Lake and Zen 4 have it.
#pragma once

#include <immintrin.h>

#include "products.h"

namespace memrec {
namespace {

struct VnniProducts : PlainProducts {
    static constexpr int at_once = kPanel;

    MEMREC_FORCED static void add_bytes(Ints& sum, uint32_t word, const uint8_t* line) {
        sum = reinterpret_cast<Ints>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), _mm512_set1_epi32(static_cast<int>(word)),
                                                         _mm512_loadu_si512(line)));
    }
};

}  // namespace
}  // namespace memrec
