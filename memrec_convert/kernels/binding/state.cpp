#include "state.h"

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define MEMREC_FORKS 1
#endif

namespace memrec {
namespace {

std::atomic<const Kernel*> active{nullptr};

// Never destroyed: its threads may outlive static destructors. A forked child has none of them and starts a new pool.
std::atomic<Pool*> pool{nullptr};

}  // namespace

const Kernel* active_kernel() {
    const Kernel* chosen = active.load(std::memory_order_relaxed);
    return chosen ? chosen : available_kernels()[0];
}

bool choose_kernel(const char* name) {
    const Kernel* found = find_kernel(name);
    if (found) active = found;
    return found;
}

Pool* shared_pool() {
    Pool* current = pool.load(std::memory_order_acquire);
    if (current) return current;
    auto* fresh = new Pool;
    if (pool.compare_exchange_strong(current, fresh)) {
#ifdef MEMREC_FORKS
        static const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
        (void)registered;
#endif
        return fresh;
    }
    delete fresh;
    return current;
}

}  // namespace memrec
