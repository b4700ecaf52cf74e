#include "placing.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "inlining.h"

namespace memrec {
namespace {

constexpr int64_t kBlock = 1024;

struct Block {
    float lost[kBlock], best[kBlock], second[kBlock];
    int32_t kinds[kBlock];
};

// Bit by bit, since compilers leave a choice between floats to a branch.
inline float pick(bool first, float a, float b) {
    int32_t mask = -static_cast<int32_t>(first), bits[2];
    std::memcpy(&bits[0], &a, 4);
    std::memcpy(&bits[1], &b, 4);
    const int32_t picked = (mask & bits[0]) | (~mask & bits[1]);
    float found;
    std::memcpy(&found, &picked, 4);
    return found;
}

// Where one is no number, neither is what comes of it.
inline float lesser(float a, float b) { return pick((a < b) | (a != a), a, b); }
inline float greater(float a, float b) { return pick((a > b) | (a != a), a, b); }

// Apart, since GCC joins two levels to a loop that it does not vectorise.
MEMREC_APART void offer(const float* losses, float price, int32_t kind, int64_t count, Block& block) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        const float loss = losses[i], own = loss + price, before = block.best[i], lost = block.lost[i];
        const int32_t held = block.kinds[i];
        block.second[i] = lesser(block.second[i], greater(before, own));
        block.best[i] = lesser(before, own);
        block.lost[i] = pick(own < before, loss, lost);
        block.kinds[i] = own < before ? kind : held;
    }
}

void compare(const Offers& offers, int64_t first, int64_t count, Block& block) {
    const float* base = offers.losses + first;
    std::copy(base, base + count, block.lost);
    std::copy(base, base + count, block.best);
    std::fill(block.second, block.second + count, std::numeric_limits<float>::infinity());
    std::fill(block.kinds, block.kinds + count, 0);
    for (int64_t n = 0; n < offers.opened; ++n) {
        const int64_t level = offers.open[n];
        const float* losses = offers.losses + (level + 1) * offers.stride + first;
        offer(losses, offers.priced[level], static_cast<int32_t>(level + 1), count, block);
    }
}

}  // namespace

void place_ids(const Offers& offers, int8_t* kinds, double* sums) {
    const int64_t levels = offers.levels;
    std::fill(sums, sums + 4 * levels, 0.0);
    std::vector<double> part(static_cast<size_t>(4 * levels));
    Block block;
    for (int64_t start = 0; start < offers.ids; start += kIdsPlacedAtOnce) {
        const int64_t stop = std::min(start + kIdsPlacedAtOnce, offers.ids);
        std::fill(part.begin(), part.end(), 0.0);
        double *counts = part.data(), *lost = counts + levels, *gained = lost + levels, *spare = gained + levels;
        for (int64_t first = start; first < stop; first += kBlock) {
            const int64_t count = std::min(kBlock, stop - first);
            compare(offers, first, count, block);
            for (int64_t i = 0; i < count; ++i) {
                const int32_t kind = block.kinds[i];
                kinds[first + i] = static_cast<int8_t>(kind);
                const float best = block.best[i];
                counts[kind] += 1;
                lost[kind] += block.lost[i];
                gained[kind] += offers.losses[first + i] - best;
                spare[kind] += block.second[i] - best;
            }
        }
        for (int64_t k = 0; k < 4 * levels; ++k) sums[k] += part[static_cast<size_t>(k)];
    }
}

}  // namespace memrec
