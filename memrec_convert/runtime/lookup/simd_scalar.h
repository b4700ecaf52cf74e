// Lanes in plain C++: the whole of the scalar kernel, and what is left of a row beside whole vectors everywhere else.
#pragma once

#include <cstdint>
#include <cstring>

#include "tables.h"

namespace memrec {
namespace {

inline float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u, fraction = half & 1023u;
    if (exponent == 31) return from_bits(sign | 0x7F800000u | (fraction << 13));
    if (exponent == 0) {
        const float value = static_cast<float>(fraction) * from_bits(0x33800000u);  // 2**-24
        return sign ? -value : value;
    }
    return from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
}

// A bundle of `n` lanes: int16 sums of int8 tokens, and as many floats.
template <int n>
struct Plain {
    static constexpr int lanes = n;
    struct Sum {
        int16_t v[n];
    };
    struct Floats {
        float v[n];
    };
    using Weights = uint16_t;  // that of the first token of a pair in the low byte, of the second in the high one
    static Weights weights(uint32_t both) { return static_cast<uint16_t>(both & 0xFFFF); }
    static Sum pair(const int8_t* a, const int8_t* b, Weights by) {
        Sum sum;
        for (int i = 0; i < n; ++i) sum.v[i] = static_cast<int16_t>(a[i] * (by & 255) + b[i] * (by >> 8));
        return sum;
    }
    static Sum add(Sum sum, const Sum& other) {
        for (int i = 0; i < n; ++i)
            sum.v[i] = static_cast<int16_t>(static_cast<uint16_t>(sum.v[i]) + static_cast<uint16_t>(other.v[i]));
        return sum;
    }
    static Floats to_floats(const Sum& sum) {
        Floats floats;
        for (int i = 0; i < n; ++i) floats.v[i] = sum.v[i];
        return floats;
    }
    static Floats load(const float* p) {
        Floats floats;
        std::memcpy(floats.v, p, sizeof floats.v);
        return floats;
    }
    static Floats load_bf16(const uint16_t* p) {
        Floats floats;
        for (int i = 0; i < n; ++i) floats.v[i] = from_bits(static_cast<uint32_t>(load_at<uint16_t>(p, i)) << 16);
        return floats;
    }
    static Floats load_fp16(const uint16_t* p) {
        Floats floats;
        for (int i = 0; i < n; ++i) floats.v[i] = half_to_float(load_at<uint16_t>(p, i));
        return floats;
    }
    static Floats load_int8(const int8_t* p) {
        Floats floats;
        for (int i = 0; i < n; ++i) floats.v[i] = p[i];
        return floats;
    }
    static Floats multiply(Floats floats, float factor) {
        for (int i = 0; i < n; ++i) floats.v[i] *= factor;
        return floats;
    }
    // f (f**2 + offset), exact where the result is a whole number below 2**24.
    static Floats cubic(Floats floats, float offset) {
        for (int i = 0; i < n; ++i) floats.v[i] *= floats.v[i] * floats.v[i] + offset;
        return floats;
    }
    static Floats divide(Floats floats, float divisor) {
        for (int i = 0; i < n; ++i) floats.v[i] /= divisor;
        return floats;
    }
    static Floats add(Floats floats, const Floats& other) {
        for (int i = 0; i < n; ++i) floats.v[i] += other.v[i];
        return floats;
    }
    template <bool stream>
    static void store(float* p, const Floats& floats) {
        std::memcpy(p, floats.v, sizeof floats.v);
    }
};

}  // namespace
}  // namespace memrec
