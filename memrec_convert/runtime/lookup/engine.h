// Runs a request on an instruction set and on as many threads as it is worth.
#pragma once

#include "core/threads.h"
#include "tables.h"

namespace memrec {

constexpr int64_t kLookupsPerThread = 2048;  // fewer than this are not worth waking a thread for

// The instruction sets that this build and this machine have, best first; null after the last.
const Kernel* const* available_kernels();
const Kernel* find_kernel(const char* name);  // null where it is not available

// The first fault of a request: which of its bags, and which of their ids, offsets or weights; -1 where there is none.
enum class Fault { none, id, offset, weight, memory };
struct Finding {
    Fault fault;
    int64_t table, position;
};

// Checks all ids, offsets and weights, then looks up, on at most `threads` threads of the pool, which may be null.
// Nothing is written where there is a fault, but for one of memory.
Finding look_up(const Request& request, Pool* pool, int threads);

}  // namespace memrec
