// Runs a request on the chosen instruction set and on as many threads as it is worth.
#pragma once

#include "tables.h"

namespace memrec {

constexpr int64_t kLookupsPerThread = 2048;  // fewer than this are not worth waking a thread for

// The instruction set in use, and those that this build and this machine have, best first; null after the last.
const Kernel* active_kernel();
const Kernel* const* available_kernels();
bool choose_kernel(const char* name);  // false where it is not available

// The first fault of a request: which table, and which of its ids, offsets or weights; table -1 where there is none.
enum class Fault { none, id, offset, weight };
struct Finding {
    Fault fault;
    int64_t table, position;
};

// Checks all ids, offsets and weights, then looks up. Nothing is written where there is a fault.
Finding look_up(const Request& request, int threads);

}  // namespace memrec
