// The level of each id at a price, with sums in double and in one order on every machine.
#pragma once

#include <cstdint>

namespace memrec {

// Ids of which a processor's own cache holds all losses: sums are of so many ids, and then of these sums.
constexpr int64_t kIdsPlacedAtOnce = 1 << 14;

struct Offers {
    const float* losses;  // [levels, ids], rows `stride` floats apart; the first one is the base
    int64_t stride, ids, levels;
    const float* priced;  // [levels - 1]: what is added to the losses of each level
    const int64_t* open;  // the numbers of the levels that may be taken (0: the first one after the base), rising
    int64_t opened;
};

// kinds [ids]: the open level of least loss plus 1, 0: the base; ties go to the earlier one.
// sums [4, levels]: how many are there, what they lose without the prices, what they gain over the base with them, and what
// they would lose more in the next best level.
void place_ids(const Offers& offers, int8_t* kinds, double* sums);

}  // namespace memrec
