#include "cpu.h"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define MEMREC_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace memrec {

#ifdef MEMREC_X86
namespace {

struct Registers {
    uint32_t a, b, c, d;
};

Registers ask(uint32_t leaf, uint32_t part) {
    Registers r{};
#if defined(_MSC_VER)
    int values[4];
    __cpuidex(values, static_cast<int>(leaf), static_cast<int>(part));
    r = {static_cast<uint32_t>(values[0]), static_cast<uint32_t>(values[1]), static_cast<uint32_t>(values[2]),
         static_cast<uint32_t>(values[3])};
#else
    if (!__get_cpuid_count(leaf, part, &r.a, &r.b, &r.c, &r.d)) r = {};
#endif
    return r;
}

// The registers that the operating system saves: without its word, wide registers must stay untouched.
uint64_t saved_state() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

bool has(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

// Linux saves a process's tiles once it has asked for that. Elsewhere nobody has tried it.
bool ask_for_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return false;
#endif
}

}  // namespace

Features detect_features() {
    Features features;
    const Registers basic = ask(1, 0), wide = ask(7, 0);
    constexpr uint32_t osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29, popcnt = 1u << 23, fma = 1u << 12;
    if (!has(basic.c, osxsave | avx | f16c | popcnt | fma)) return features;
    const uint64_t saved = saved_state();
    constexpr uint32_t bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
    features.avx2 = (saved & 0x6) == 0x6 && has(wide.b, bmi1 | avx2 | bmi2);
    constexpr uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, vbmi = 1u << 1, vbmi2 = 1u << 6, vpopcntdq = 1u << 14;
    features.avx512 = features.avx2 && (saved & 0xE6) == 0xE6 && has(wide.b, f | dq | bw | vl) &&
                      has(wide.c, vbmi | vbmi2 | vpopcntdq);
    constexpr uint32_t vnni = 1u << 11, narrow_vnni = 1u << 4, bf16 = 1u << 5;
    features.avx512_vnni = features.avx512 && has(wide.c, vnni);
    features.avx512_bf16 = features.avx512_vnni && wide.a >= 1 && has(ask(7, 1).a, bf16);
    constexpr uint32_t amx = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tiles, int8
    features.amx = features.avx512_bf16 && (saved & 0x60000) == 0x60000 && has(wide.d, amx);
    features.avx_vnni = features.avx2 && wide.a >= 1 && has(ask(7, 1).a, narrow_vnni);
    return features;
}

bool take_tiles() {
    static const bool taken = detect_features().amx && ask_for_tiles();
    return taken;
}
#else
Features detect_features() { return {}; }
bool take_tiles() { return false; }
#endif

}  // namespace memrec
