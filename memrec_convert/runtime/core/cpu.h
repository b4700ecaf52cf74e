// What this machine's processor and operating system can run.
#pragma once

namespace memrec {

struct Features {
    bool avx2 = false;         // with F16C, BMI and POPCNT
    bool avx512 = false;       // F, BW, DQ, VL, VBMI, VPOPCNTDQ
    bool avx512_vnni = false;  // the former, with VNNI
    bool avx512_bf16 = false;  // the former, with BF16
    bool amx = false;          // AVX-512 with BF16, and tiles of int8 and BF16
    bool avx_vnni = false;     // AVX2 as above, with AVX-VNNI
};

Features detect_features();

// Whether there are tiles and the operating system lets this process use them, which it is asked for once. From then on it
// wants larger stacks for signals, so nothing asks that has no products to make.
bool take_tiles();

}  // namespace memrec
