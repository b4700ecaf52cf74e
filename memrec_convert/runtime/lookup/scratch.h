// Memory of a thread that is kept from call to call, so that lookups allocate nothing once they are under way.
#pragma once

#include <cstdint>

namespace memrec {

constexpr int kSlots = 64;  // lookups of a piece, at the most

float* scratch_floats(int64_t floats);

}  // namespace memrec
