// A pool of threads that sleeps when calls are a while apart. One request uses it at a time; others meanwhile run on their
// own thread.
#pragma once

#include <cstdint>

namespace memrec {

using Task = void (*)(void* context, int64_t number);

// Runs task(context, 0 .. count-1), each once, in any order, on at most `threads` threads including the caller's.
void run_tasks(Task task, void* context, int64_t count, int threads);

}  // namespace memrec
