#include "threads.h"

#include <chrono>
#include <exception>

namespace memrec {
namespace {

constexpr int kMostThreads = 256;
constexpr std::chrono::microseconds kPatience{100};  // before a thread sleeps, which then takes some 40 to wake

}  // namespace

Pool::~Pool() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ends_ = true;
        ++round_;
    }
    wake_.notify_all();
    for (std::thread& thread : held_) thread.join();
}

bool Pool::run(Task task, void* context, int64_t count, int threads) {
    if (threads > kMostThreads) threads = kMostThreads;
    if (threads > count) threads = static_cast<int>(count);
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

// Looks for what mostly comes soon; other threads have the core meanwhile if they want it.
template <class F>
void Pool::watch_for(F is_there) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!is_there() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

// How many of that many helpers there are; fewer where the system gives no more threads.
int Pool::grow(int helpers) {
    try {
        while (static_cast<int>(held_.size()) < helpers) held_.emplace_back([this] { serve(); });
    } catch (const std::exception&) {
    }
    const int held = static_cast<int>(held_.size());
    return held < helpers ? held : helpers;
}

void Pool::serve() {
    uint64_t seen = 0;
    for (;;) {
        watch_for([&] { return round_ != seen; });
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return ends_ || (round_ != seen && helpers_ > 0); });
        if (ends_) return;
        seen = round_;
        --helpers_;
        ++running_;
        lock.unlock();
        work();
        lock.lock();
        if (--running_ == 0) done_.notify_one();
    }
}

void Pool::work() {
    for (int64_t number; (number = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(context_, number);
}

}  // namespace memrec
