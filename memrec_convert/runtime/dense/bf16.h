// Two products of bf16 in one instruction, as Cooper Lake, Sapphire Rapids and Zen 4 have it.
#pragma once

#include "vnni.h"

namespace memrec {
namespace {

struct Bf16Products : VnniProducts {
    MEMREC_FORCED static void add_halves(Floats& sum, uint32_t word, const uint8_t* line) {
        const __m512i row = _mm512_set1_epi32(static_cast<int>(word)), weights = _mm512_loadu_si512(line);
        __m512bh both[2];
        std::memcpy(&both[0], &row, sizeof row);
        std::memcpy(&both[1], &weights, sizeof weights);
        sum = _mm512_dpbf16_ps(sum, both[0], both[1]);
    }
};

}  // namespace
}  // namespace memrec
