// Sixteen columns in four registers of NEON; groups of four at once where the dot product is compiled for.
#pragma once

#include <arm_neon.h>

#include "tiles.h"

namespace memrec {
namespace {

struct NeonTile {
    struct Ints {
        int32x4_t of[4];
    };
    static constexpr int rows_at_once = 4, panels_at_once = 1;

    template <int R, int P>
    static void multiply(const int8_t* a, int64_t stride, const int32_t*, const int8_t* panel, int64_t, int64_t depth,
                         Ints (&out)[R][P]) {
        static_assert(P == 1);
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < 4; ++i) out[r][0].of[i] = vdupq_n_s32(0);
        for (int64_t k = 0; k < depth; k += kGroup)
            for (int r = 0; r < R; ++r) {
                const int8x16_t values = vreinterpretq_s8_s32(vdupq_n_s32(group_at(a + r * stride, k, depth)));
                for (int i = 0; i < 4; ++i)
                    out[r][0].of[i] = add(out[r][0].of[i], vld1q_s8(panel + k * kPanelColumns + 16 * i), values);
            }
    }

    static int32x4_t add(int32x4_t sum, int8x16_t columns, int8x16_t values) {
#if defined(__ARM_FEATURE_DOTPROD)
        return vdotq_s32(sum, columns, values);
#else
        const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(columns), vget_low_s8(values)));
        const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(columns), vget_high_s8(values)));
        return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
    }

    template <int R, int P>
    static void multiply_groups(const int8_t* a, int64_t stride, const int32_t* sums, const int8_t* panel, int64_t bytes,
                                int64_t depth, Ints (&out)[R][P]) {
        multiply<R, P>(a, stride, sums, panel, bytes, depth, out);
    }

    static void store(int32_t* to, const Ints& ints) {
        for (int i = 0; i < 4; ++i) vst1q_s32(to + 4 * i, ints.of[i]);
    }
};

}  // namespace
}  // namespace memrec
