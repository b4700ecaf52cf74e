// What the steps of a lookup hand on to each other. In an unnamed namespace, as everything that is compiled once per
// instruction set: no copy can stand in for another's.
#pragma once

#include <cstdint>
#include <cstring>

#include "hashing.h"
#include "inlining.h"
#include "prefetch.h"
#include "scratch.h"
#include "tables.h"

// Loops over independent products of 64 bits, where the instruction set has them in lanes.
#if defined(__AVX512DQ__)
#define MEMREC_LANES _Pragma("omp simd")
#else
#define MEMREC_LANES
#endif

namespace memrec {
namespace {

constexpr int64_t kInCache = 64 << 10;  // bytes (of rows: numbers) that stay near the core by themselves
constexpr int kShort = 16;  // fewer lookups of a table in a piece than this: its rows are asked for at once

enum Form : uint8_t { kBase = 0, kZero = 1 + kMostLevels, kForms };  // and 1 + level

template <int n>
struct Const {
    static constexpr int value = n;
    constexpr operator int() const { return n; }
};

// What is known of each lookup of a piece.
struct Slots {
    uint64_t id[kSlots];
    uint64_t place[kSlots];
    uint64_t keys[kMostLevels][kSlots];  // the line of the id's key; without lines the mixed id, then its bucket's first key
    uint16_t in_bucket[kMostLevels][kSlots];
    uint16_t key[kMostLevels][kSlots];
    uint64_t h1[kSlots], h2[kSlots];  // of the base's ids, in the order of its list
    uint16_t list[kForms][kSlots];  // slots by form; those of a span begin at its first slot
};

// The lookups of one table in a piece: slots [first, last), whose vectors go to `out`. At first all are of the base's
// form; each level takes its own out of that list, so that no later loop asks a lookup for its form.
struct Span {
    const Table* table;
    int first, last;
    float* out;
    int64_t stride;
    bool asked;  // for all its tokens
    int counts[kForms];
};

inline uint64_t load_64(const uint8_t* p) {
    uint64_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}

inline uint32_t load_32(const uint8_t* p) {
    uint32_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}

inline uint16_t load_16(const uint8_t* p) {
    uint16_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}

// Number of the lowest bit that is set; anything below 32 where none is.
inline uint32_t first_bit(uint32_t bits) {
#if defined(_MSC_VER) && !defined(__clang__)
    unsigned long number = 0;
    _BitScanForward(&number, bits | 0x80000000u);
    return number;
#else
    return static_cast<uint32_t>(__builtin_ctz(bits | 0x80000000u));
#endif
}

inline void prefetch_bytes(const void* start, int64_t bytes) {
    const auto* p = static_cast<const char*>(start);
    for (int64_t at = 0; at < bytes; at += kLineBytes) MEMREC_PREFETCH(p + at);
    MEMREC_PREFETCH(p + bytes - 1);
}

inline void prefetch_row(const Rows& rows, uint64_t number, int64_t bytes) {
    prefetch_bytes(static_cast<const char*>(rows.rows) + number * bytes, bytes);
    if (rows.scale) MEMREC_PREFETCH(static_cast<const char*>(rows.scale) + number * (rows.codec == Codec::int8 ? 2 : 1));
}

inline void prefetch_code(const uint8_t* codes, uint64_t entry, uint32_t bits) {
    const uint8_t* p = codes + ((entry * bits) >> 3);
    MEMREC_PREFETCH(p);
    MEMREC_PREFETCH(p + 7);
}

}  // namespace
}  // namespace memrec
