// A pool of threads that sleeps when calls are a while apart. One request uses it at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace memrec {

using Task = void (*)(void* context, int64_t number);  // throws nothing

class Pool {
  public:
    Pool() = default;
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    ~Pool();  // no request may be under way

    // Runs task(context, 0 .. count-1), each once, in any order, on at most `threads` threads including the caller's, which
    // start when they are first needed. False, and nothing run, where another request has the pool.
    bool run(Task task, void* context, int64_t count, int threads);

  private:
    template <class F>
    static void watch_for(F is_there);
    int grow(int helpers);
    void serve();
    void work();

    std::mutex turn_, mutex_;
    std::condition_variable wake_, done_;
    std::atomic<int64_t> next_{0};
    Task task_ = nullptr;
    void* context_ = nullptr;
    int64_t count_ = 0;
    std::vector<std::thread> held_;
    int helpers_ = 0;
    bool ends_ = false;
    std::atomic<int> running_{0};
    std::atomic<uint64_t> round_{0};
};

}  // namespace memrec
