#include "blake2b.h"

#include <algorithm>
#include <cstring>

namespace memrec {
namespace {

constexpr size_t kDigestBytes = 16, kBlockBytes = 128;
constexpr uint64_t kStart[8] = {0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
                                0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179};
constexpr uint8_t kOrder[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

uint64_t rotate_right(uint64_t value, int bits) { return (value >> bits) | (value << (64 - bits)); }

void mix(uint64_t* v, int a, int b, int c, int d, uint64_t x, uint64_t y) {
    v[a] += v[b] + x;
    v[d] = rotate_right(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = rotate_right(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = rotate_right(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotate_right(v[b] ^ v[c], 63);
}

uint64_t word_at(const uint8_t* bytes) {
    uint64_t word = 0;
    for (int i = 7; i >= 0; --i) word = (word << 8) | bytes[i];
    return word;
}

}  // namespace

Blake2b::Blake2b() {
    std::copy(kStart, kStart + 8, state_);
    state_[0] ^= 0x01010000 ^ kDigestBytes;
}

void Blake2b::add(const void* bytes, size_t count) {
    const auto* next = static_cast<const uint8_t*>(bytes);
    while (count) {
        if (held_ == kBlockBytes) {  // only what is followed by more is not the last block
            compress(block_, false);
            held_ = 0;
        }
        for (; !held_ && count > kBlockBytes; next += kBlockBytes, count -= kBlockBytes) {
            count_ += kBlockBytes;
            compress(next, false);
        }
        const size_t taken = std::min(count, kBlockBytes - held_);
        std::memcpy(block_ + held_, next, taken);
        held_ += taken;
        count_ += taken;
        next += taken;
        count -= taken;
    }
}

std::string Blake2b::finish() {
    std::memset(block_ + held_, 0, kBlockBytes - held_);
    compress(block_, true);
    std::string digits;
    for (size_t i = 0; i < kDigestBytes; ++i) {
        const auto byte = static_cast<unsigned>(state_[i / 8] >> (8 * (i % 8))) & 255u;
        digits += "0123456789abcdef"[byte >> 4];
        digits += "0123456789abcdef"[byte & 15];
    }
    return digits;
}

void Blake2b::compress(const uint8_t* block, bool last) {
    uint64_t v[16], m[16];
    for (int i = 0; i < 16; ++i) m[i] = word_at(block + 8 * i);
    for (int i = 0; i < 8; ++i) {
        v[i] = state_[i];
        v[i + 8] = kStart[i];
    }
    v[12] ^= count_;  // the upper half of the count stays 0: no file has 2^64 bytes
    if (last) v[14] = ~v[14];
    for (int round = 0; round < 12; ++round) {
        const uint8_t* s = kOrder[round % 10];
        for (int i = 0; i < 4; ++i) mix(v, i, i + 4, i + 8, i + 12, m[s[2 * i]], m[s[2 * i + 1]]);
        for (int i = 0; i < 4; ++i)
            mix(v, i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12, m[s[2 * i + 8]], m[s[2 * i + 9]]);
    }
    for (int i = 0; i < 8; ++i) state_[i] ^= v[i] ^ v[i + 8];
}

}  // namespace memrec
