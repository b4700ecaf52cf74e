// What this machine's processor and operating system can run.
#pragma once

namespace memrec {

struct Features {
    bool avx2 = false;    // with F16C, BMI and POPCNT
    bool avx512 = false;  // F, BW, DQ, VL, VBMI, VPOPCNTDQ
    bool avx512_vnni = false, avx512_bf16 = false;  // beside avx512
};

Features detect_features();

}  // namespace memrec
