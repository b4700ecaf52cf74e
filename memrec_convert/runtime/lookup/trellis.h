// Rows of 1 to 6 bits per value in bit planes (section 4.1 of docs/artifact.md): the path's bits and those of the other
// planes name an odd number c each, and a value is c (c**2 + 4**(bits + 1)) times the row's unit.
#pragma once

#include "columns.h"

namespace memrec {
namespace {

constexpr int kWord = 64;  // values at once: a bit of each

// Calls f with the codec's bits per value, as a number that the compiler knows; false for codecs of other kinds.
template <class F>
MEMREC_INLINE inline bool with_trellis_bits(Codec codec, F f) {
    switch (trellis_bits(codec)) {
        case 1: return f(Const<1>{}), true;
        case 2: return f(Const<2>{}), true;
        case 3: return f(Const<3>{}), true;
        case 4: return f(Const<4>{}), true;
        case 5: return f(Const<5>{}), true;
        case 6: return f(Const<6>{}), true;
        default: return false;
    }
}

inline uint64_t load_bytes(const uint8_t* p, int bytes) {
    uint64_t word = 0;
    std::memcpy(&word, p, static_cast<size_t>(bytes));
    return word;
}

// Bit i of a byte to byte i.
inline uint64_t spread_bits(uint64_t byte) {
    const uint64_t apart = (byte * 0x0101010101010101ull) & 0x8040201008040201ull;
    return ((apart + 0x7F7F7F7F7F7F7F7Full) >> 7) & 0x0101010101010101ull;
}

// Of 64 values: 1 and the weights of those planes in which its bit is set.
template <int planes>
inline void weigh_bits_by_one(const uint64_t* words, const uint8_t* weights, int8_t* out) {
    for (int byte = 0; byte < 8; ++byte) {
        uint64_t sum = 0x0101010101010101ull;
        for (int p = 0; p < planes; ++p) sum |= spread_bits(words[p] >> (8 * byte) & 255) * weights[p];
        std::memcpy(out + 8 * byte, &sum, sizeof sum);
    }
}

// What the planes of an index weigh in c = 2 index + 1 - 2**(bits + 1), the last one turned over, as bytes that wrap.
template <int bits>
struct PlaneWeights {
    uint8_t of[bits + 1];
    constexpr PlaneWeights() : of() {
        for (int p = 0; p < bits; ++p) of[p] = static_cast<uint8_t>(2 << p);
        of[bits] = static_cast<uint8_t>(0x1FE << bits);
    }
};

template <class Isa, bool stream, int bits>
MEMREC_INLINE inline void write_trellis_row(const uint8_t* row, uint8_t scale, int dim, float* out) {
    static constexpr PlaneWeights<bits> kWeights;
    constexpr float offset = static_cast<float>(4 << (2 * bits));
    const uint32_t exponent = 127 - 22 - 3 * (bits + 1);
    const float unit = scale ? from_bits((static_cast<uint32_t>(scale) << 20) + (exponent << 23)) : 0.0f;
    const int plane = (dim + 7) / 8;
    uint64_t before = 0;  // the path's word before
    alignas(kLineBytes) int8_t odd[kWord];
    const auto write_word = [&](int first, auto count) MEMREC_INLINE {
        const int bytes = (count + 7) / 8;
        const uint8_t* at_word = row + first / 8;
        const uint64_t path = load_bytes(at_word, bytes);
        uint64_t words[bits + 1] = {path << 2 | before >> 62,
                                    path ^ (path << 1 | before >> 63) ^ (path << 3 | before >> 61)};
        for (int p = 1; p < bits; ++p) words[p + 1] = load_bytes(at_word + p * plane, bytes);
        words[bits] = ~words[bits];
        before = path;
        Isa::template weigh_bits<bits + 1>(words, kWeights.of, odd);
        for_columns<Isa>(count, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
            using Lanes = decltype(lanes);
            for (int b = 0; b < decltype(blocks)::value; ++b) {
                const int at = column + b * Lanes::lanes;
                const auto whole = Lanes::cubic(Lanes::load_int8(odd + at), offset);
                Lanes::template store<stream>(out + first + at, Lanes::multiply(whole, unit));
            }
        });
    };
    int first = 0;
    for (; dim - first >= kWord; first += kWord) write_word(first, Const<kWord>{});
    if (first < dim) write_word(first, dim - first);
}

}  // namespace
}  // namespace memrec
