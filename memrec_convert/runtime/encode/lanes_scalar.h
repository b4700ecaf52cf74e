// Sixteen floats as an array, for machines without anything better: the meaning of the other forms.
#pragma once

#include <algorithm>
#include <cmath>

#include "products/tile_scalar.h"

namespace memrec {
namespace {

struct ScalarLanes : ScalarTile, InGroups {
    using Cut = Uncut;
    struct Floats {
        float of[16];
    };
    template <class F>
    static Floats make(F f) {
        Floats made;
        for (int i = 0; i < 16; ++i) made.of[i] = f(i);
        return made;
    }
    static Floats load(const float* p) { return make([&](int i) { return p[i]; }); }
    static void store(float* p, const Floats& a) { std::copy(a.of, a.of + 16, p); }
    static Floats fill(float value) { return make([&](int) { return value; }); }
    static Floats add(const Floats& a, const Floats& b) { return make([&](int i) { return a.of[i] + b.of[i]; }); }
    static Floats subtract(const Floats& a, const Floats& b) { return make([&](int i) { return a.of[i] - b.of[i]; }); }
    static Floats multiply_floats(const Floats& a, const Floats& b) { return make([&](int i) { return a.of[i] * b.of[i]; }); }
    static Floats lower(const Floats& a, const Floats& b) { return make([&](int i) { return a.of[i] < b.of[i] ? a.of[i] : b.of[i]; }); }
    static Floats higher(const Floats& a, const Floats& b) { return make([&](int i) { return a.of[i] > b.of[i] ? a.of[i] : b.of[i]; }); }
    static Floats magnitude(const Floats& a) { return make([&](int i) { return std::fabs(a.of[i]); }); }
    static Floats to_floats(const Ints& a) { return make([&](int i) { return static_cast<float>(a.of[i]); }); }
    static Floats label(const Floats& a, uint32_t label, uint32_t bits) {  // the lowest bits become the label
        return make([&](int i) {
            uint32_t word;
            std::memcpy(&word, &a.of[i], 4);
            word = (word & ~bits) | label;
            float made;
            std::memcpy(&made, &word, 4);
            return made;
        });
    }
    static float largest(const Floats& a) { return *std::max_element(a.of, a.of + 16); }
    static void round(int8_t* to, const Floats& a) {  // to the nearest, ties to even; |a| is about 127 at most, or no number
        for (int i = 0; i < 16; ++i) to[i] = static_cast<int8_t>(std::fabs(a.of[i]) < 127.5f ? std::lrint(a.of[i]) : 0);
    }
    static void fold_four(float* to, const Floats& a, const Floats& b, const Floats& c, const Floats& d) {
        const Floats* all[] = {&a, &b, &c, &d};
        for (int n = 0; n < 4; ++n) {
            float sum[16];
            std::copy(all[n]->of, all[n]->of + 16, sum);
            for (int half = 8; half; half /= 2)
                for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
            to[n] = sum[0];
        }
    }
};

}  // namespace
}  // namespace memrec
