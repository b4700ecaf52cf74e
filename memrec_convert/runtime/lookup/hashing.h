// Scattering of ids: MurmurHash3_x64_128 of eight bytes for hashed tokens, and the bijective mix of the index.
#pragma once

#include <cstdint>

namespace memrec {
namespace {

struct Hash {
    uint64_t h1, h2;
};

inline uint64_t rotate_left(uint64_t value, int bits) { return (value << bits) | (value >> (64 - bits)); }

inline uint64_t finish_half(uint64_t value) {
    value = (value ^ (value >> 33)) * 0xFF51AFD7ED558CCDull;
    value = (value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53ull;
    return value ^ (value >> 33);
}

inline Hash hash_id(uint64_t id, uint32_t seed) {
    uint64_t key = rotate_left(id * 0x87C37B91114253D5ull, 31) * 0x4CF5AD432745937Full;
    uint64_t h1 = seed ^ key ^ 8, h2 = seed ^ 8ull;  // 8: the length of what is hashed
    h1 += h2;
    h2 += h1;
    h1 = finish_half(h1);
    h2 = finish_half(h2);
    h1 += h2;
    return {h1, h2 + h1};
}

inline uint64_t reduce(uint64_t hash_32, uint64_t size) { return (hash_32 * size) >> 32; }

inline uint64_t token_number(const Hash& hash, int number, uint32_t rows) {
    return reduce((hash.h1 + hash.h2 * static_cast<uint64_t>(number)) >> 32, rows);
}

inline uint64_t weight_block(const Hash& hash, uint32_t blocks) { return reduce(hash.h1 & 0xFFFFFFFFull, blocks); }

inline uint64_t mix_id(uint64_t id, uint32_t bits) {
    const uint64_t mask = (1ull << bits) - 1;
    const uint32_t half = (bits + 1) / 2;
    uint64_t mixed = (id * 0x9E3779B1ull) & mask;
    mixed ^= mixed >> half;
    mixed = (mixed * 0x85EBCA6Bull) & mask;
    return mixed ^ (mixed >> half);
}

}  // namespace
}  // namespace memrec
