// Lanes in NEON (AArch64): 8 at a time.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace memrec {
namespace {

struct Neon {
    static constexpr int lanes = 8;
    using Sum = int16x8_t;
    struct Floats {
        float32x4_t low, high;
    };
    struct Weights {
        int16_t first, second;
    };
    static Weights weights(uint32_t both) {
        return {static_cast<int16_t>(both & 255), static_cast<int16_t>(both >> 8 & 255)};
    }
    static Sum pair(const int8_t* a, const int8_t* b, Weights by) {
        return vmlaq_n_s16(vmulq_n_s16(vmovl_s8(vld1_s8(a)), by.first), vmovl_s8(vld1_s8(b)), by.second);
    }
    static Sum add(Sum sum, Sum other) { return vaddq_s16(sum, other); }
    static Floats to_floats(Sum sum) {
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(sum))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(sum)))};
    }
    static Floats load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
    static Floats load_bf16(const uint16_t* p) {
        const uint16x8_t halves = vld1q_u16(p);
        return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16)),
                vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(halves), 16))};
    }
    static Floats load_fp16(const uint16_t* p) {
        const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(p));
        return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_f32_f16(vget_high_f16(halves))};
    }
    static Floats load_int8(const int8_t* p) { return to_floats(vmovl_s8(vld1_s8(p))); }
    static Floats multiply(Floats f, float factor) { return {vmulq_n_f32(f.low, factor), vmulq_n_f32(f.high, factor)}; }
    static Floats cubic(Floats f, float offset) {
        const float32x4_t more = vdupq_n_f32(offset);
        return {vmulq_f32(f.low, vaddq_f32(vmulq_f32(f.low, f.low), more)),
                vmulq_f32(f.high, vaddq_f32(vmulq_f32(f.high, f.high), more))};
    }
    static Floats divide(Floats f, float divisor) {
        const float32x4_t by = vdupq_n_f32(divisor);
        return {vdivq_f32(f.low, by), vdivq_f32(f.high, by)};
    }
    static Floats add(Floats f, Floats g) { return {vaddq_f32(f.low, g.low), vaddq_f32(f.high, g.high)}; }
    template <bool stream>
    static void store(float* p, Floats floats) {
        vst1q_f32(p, floats.low);
        vst1q_f32(p + 4, floats.high);
    }
};

}  // namespace
}  // namespace memrec
