#include "threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define MEMREC_FORKS 1
#endif

namespace memrec {
namespace {

constexpr int kMostThreads = 256;
constexpr std::chrono::microseconds kPatience{100};  // before a thread sleeps, which then takes some 40 to wake

class Pool {
  public:
    // False where another request has the pool.
    bool run(Task task, void* context, int64_t count, int threads) {
        std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (!turn.owns_lock()) return false;
        threads = 1 + grow(threads - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = task;
            context_ = context;
            count_ = count;
            next_.store(0, std::memory_order_relaxed);
            helpers_ = threads - 1;
            running_ = 0;
            ++round_;
        }
        wake_.notify_all();
        work();
        std::unique_lock<std::mutex> lock(mutex_);
        helpers_ = 0;  // whoever has not woken by now is not needed
        lock.unlock();
        watch_for([this] { return running_ == 0; });
        lock.lock();
        done_.wait(lock, [this] { return running_ == 0; });
        return true;
    }

  private:
    // Looks for what mostly comes soon; other threads have the core meanwhile if they want it.
    template <class F>
    static void watch_for(F is_there) {
        const auto end = std::chrono::steady_clock::now() + kPatience;
        while (!is_there() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    }

    // How many of that many helpers there are; fewer where the system gives no more threads.
    int grow(int helpers) {
        try {
            for (; held_ < helpers; ++held_) std::thread([this] { serve(); }).detach();
        } catch (const std::exception&) {
        }
        return held_ < helpers ? held_ : helpers;
    }

    void serve() {
        uint64_t seen = 0;
        for (;;) {
            watch_for([&] { return round_ != seen; });
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return round_ != seen && helpers_ > 0; });
            seen = round_;
            --helpers_;
            ++running_;
            lock.unlock();
            work();
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    void work() {
        for (int64_t number; (number = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(context_, number);
    }

    std::mutex turn_, mutex_;
    std::condition_variable wake_, done_;
    std::atomic<int64_t> next_{0};
    Task task_ = nullptr;
    void* context_ = nullptr;
    int64_t count_ = 0;
    int held_ = 0, helpers_ = 0;
    std::atomic<int> running_{0};
    std::atomic<uint64_t> round_{0};
};

// Never destroyed: its threads may outlive static destructors. A forked child has none of them and starts a new pool.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
    Pool* current = pool.load(std::memory_order_acquire);
    if (current) return *current;
    auto* fresh = new Pool;
    if (pool.compare_exchange_strong(current, fresh)) {
#ifdef MEMREC_FORKS
        static const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
        (void)registered;
#endif
        return *fresh;
    }
    delete fresh;
    return *current;
}

}  // namespace

void run_tasks(Task task, void* context, int64_t count, int threads) {
    if (threads > kMostThreads) threads = kMostThreads;
    if (threads > count) threads = static_cast<int>(count);
    if (threads > 1 && the_pool().run(task, context, count, threads)) return;
    for (int64_t number = 0; number < count; ++number) task(context, number);
}

}  // namespace memrec
