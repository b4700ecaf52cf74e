// Sixteen columns as an array, for machines without anything better.
#pragma once

#include "tiles.h"

namespace memrec {
namespace {

struct ScalarTile {
    struct Ints {
        int32_t of[kPanelColumns];
    };
    static constexpr int rows_at_once = 1, panels_at_once = 1;

    template <int R, int P>
    static void multiply(const int8_t* a, int64_t, const int32_t*, const int8_t* panel, int64_t, int64_t depth,
                         Ints (&out)[R][P]) {
        static_assert(R == 1 && P == 1);
        Ints sum{};
        for (int64_t k = 0; k < depth; k += kGroup) {
            int8_t group[kGroup] = {};
            const int32_t four = group_at(a, k, depth);
            std::memcpy(group, &four, kGroup);
            for (int column = 0; column < kPanelColumns; ++column)
                for (int i = 0; i < kGroup; ++i) sum.of[column] += group[i] * panel[k * kPanelColumns + column * kGroup + i];
        }
        out[0][0] = sum;
    }

    template <int R, int P>
    static void multiply_groups(const int8_t* a, int64_t stride, const int32_t* sums, const int8_t* panel, int64_t bytes,
                                int64_t depth, Ints (&out)[R][P]) {
        multiply<R, P>(a, stride, sums, panel, bytes, depth, out);
    }

    static void store(int32_t* to, const Ints& ints) { std::memcpy(to, ints.of, sizeof ints.of); }
};

}  // namespace
}  // namespace memrec
