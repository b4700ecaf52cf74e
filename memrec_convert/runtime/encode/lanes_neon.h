// Sixteen floats in four registers of NEON.
#pragma once

#include "products/tile_neon.h"

namespace memrec {
namespace {

struct NeonLanes : NeonTile, InGroups {
    using Cut = Uncut;
    struct Floats {
        float32x4_t of[4];
    };
    template <class F>
    static Floats make(F f) {
        return {{f(0), f(1), f(2), f(3)}};
    }
    static Floats load(const float* p) { return make([&](int i) { return vld1q_f32(p + 4 * i); }); }
    static void store(float* p, const Floats& a) {
        for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.of[i]);
    }
    static Floats fill(float value) { return make([&](int) { return vdupq_n_f32(value); }); }
    static Floats add(const Floats& a, const Floats& b) { return make([&](int i) { return vaddq_f32(a.of[i], b.of[i]); }); }
    static Floats subtract(const Floats& a, const Floats& b) { return make([&](int i) { return vsubq_f32(a.of[i], b.of[i]); }); }
    static Floats multiply_floats(const Floats& a, const Floats& b) {
        return make([&](int i) { return vmulq_f32(a.of[i], b.of[i]); });
    }
    static Floats lower(const Floats& a, const Floats& b) { return make([&](int i) { return vminq_f32(a.of[i], b.of[i]); }); }
    static Floats higher(const Floats& a, const Floats& b) { return make([&](int i) { return vmaxq_f32(a.of[i], b.of[i]); }); }
    static Floats magnitude(const Floats& a) { return make([&](int i) { return vabsq_f32(a.of[i]); }); }
    static Floats to_floats(const Ints& a) { return make([&](int i) { return vcvtq_f32_s32(a.of[i]); }); }
    static Floats label(const Floats& a, uint32_t label, uint32_t bits) {
        return make([&](int i) {
            const uint32x4_t kept = vbicq_u32(vreinterpretq_u32_f32(a.of[i]), vdupq_n_u32(bits));
            return vreinterpretq_f32_u32(vorrq_u32(kept, vdupq_n_u32(label)));
        });
    }
    static float largest(const Floats& a) {
        return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.of[0], a.of[1]), vmaxq_f32(a.of[2], a.of[3])));
    }
    static void round(int8_t* to, const Floats& a) {
        const auto pairs = [&](int i) {
            return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.of[i])), vqmovn_s32(vcvtnq_s32_f32(a.of[i + 1])));
        };
        vst1q_s8(to, vcombine_s8(vqmovn_s16(pairs(0)), vqmovn_s16(pairs(2))));
    }
    static void fold_four(float* to, const Floats& a, const Floats& b, const Floats& c, const Floats& d) {
        const Floats* all[] = {&a, &b, &c, &d};
        for (int n = 0; n < 4; ++n) {
            const float32x4_t* of = all[n]->of;
            const float32x4_t four = vaddq_f32(vaddq_f32(of[0], of[2]), vaddq_f32(of[1], of[3]));
            const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            to[n] = vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
        }
    }
};

}  // namespace
}  // namespace memrec
