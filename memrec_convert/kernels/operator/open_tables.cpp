#include "open_tables.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>

#include "torch_abi.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define MEMREC_FORKS 1
#endif

namespace memrec {
namespace {

constexpr size_t kMostOpen = 64, kDigestDigits = 32;
constexpr int64_t kLookupsPerThread = 2048;
constexpr uint32_t kMostThreads = 256;

// Tables that were opened, known by their place and by the digest that their metadata has of itself and of all tensors: memory
// that is freed may hold other tables later.
struct Entry {
    const uint8_t* data;
    size_t bytes, digest_at;
    std::string digest;
    std::shared_ptr<const OpenTables> tables;
    std::atomic<uint64_t> used{0};

    bool is(const uint8_t* at, size_t count) const {
        return at == data && count == bytes && std::memcmp(at + digest_at, digest.data(), digest.size()) == 0;
    }
    bool overlaps(const uint8_t* at, size_t count) const { return at < data + bytes && data < at + count; }
};

struct Known {
    std::shared_mutex mutex;
    std::vector<std::unique_ptr<Entry>> entries;
    std::atomic<uint64_t> clock{0};
};

Known& known() {
    static Known* const all = new Known;  // never destroyed: other threads may look up while the process ends
    return *all;
}

std::shared_ptr<const OpenTables> find(Known& all, const uint8_t* data, size_t bytes) {
    const std::shared_lock<std::shared_mutex> lock(all.mutex);
    for (const auto& entry : all.entries) {
        if (!entry->is(data, bytes)) continue;
        entry->used.store(all.clock.fetch_add(1, std::memory_order_relaxed), std::memory_order_relaxed);
        return entry->tables;
    }
    return nullptr;
}

// Where the 32 digits of the metadata's digest of itself stand, in a header that has been read.
size_t find_digest(const uint8_t* data, size_t bytes) {
    static constexpr std::string_view field = "\\\"self\\\":\\\"";
    uint64_t length = 0;
    for (size_t i = 8; i-- > 0;) length = length << 8 | data[i];
    const auto size = static_cast<size_t>(std::min<uint64_t>(length + 8, bytes));
    const std::string_view header(reinterpret_cast<const char*>(data), size);
    const size_t at = header.rfind(field);
    if (at == header.npos || at + field.size() + kDigestDigits > header.size())
        throw std::runtime_error("the packed tables have no digest of their own.");
    return at + field.size();
}

std::shared_ptr<const OpenTables> open(const uint8_t* data, size_t bytes) {
    const memrec_options options = {MEMREC_IN_PLACE, nullptr};
    memrec_artifact* artifact = nullptr;
    memrec_error error;
    if (memrec_open_buffer(data, bytes, &options, &artifact, &error) != MEMREC_OK) throw std::runtime_error(error.text);
    auto opened = std::make_shared<OpenTables>(artifact);
    if (memrec_verify(artifact, &error) != MEMREC_OK) throw std::runtime_error(error.text);
    return opened;
}

void keep(Known& all, std::unique_ptr<Entry> entry) {
    const std::unique_lock<std::shared_mutex> lock(all.mutex);
    auto& entries = all.entries;
    const auto stale = [&](const auto& one) { return one->overlaps(entry->data, entry->bytes); };
    entries.erase(std::remove_if(entries.begin(), entries.end(), stale), entries.end());
    if (entries.size() == kMostOpen) {
        const auto older = [](const auto& one, const auto& other) { return one->used < other->used; };
        entries.erase(std::min_element(entries.begin(), entries.end(), older));
    }
    entry->used = all.clock.fetch_add(1, std::memory_order_relaxed);
    entries.push_back(std::move(entry));
}

// By number of threads, as a pool has its own for ever. A forked child has none of their threads and makes new ones.
std::atomic<memrec_pool*> pools[kMostThreads + 1];

void forget_pools() {
    for (auto& pool : pools) pool.store(nullptr);
}

}  // namespace

OpenTables::OpenTables(memrec_artifact* opened) : artifact(opened) {
    const int32_t count = memrec_count_tables(opened);
    for (int32_t number = 0; number < count; ++number) {
        memrec_table table;
        memrec_get_table(opened, number, &table, nullptr);
        dims.push_back(table.dim);
    }
}

std::shared_ptr<const OpenTables> open_tables(const uint8_t* data, size_t bytes) {
    Known& all = known();
    if (auto found = find(all, data, bytes)) return found;
    auto entry = std::make_unique<Entry>();
    entry->data = data;
    entry->bytes = bytes;
    entry->tables = open(data, bytes);
    entry->digest_at = find_digest(data, bytes);
    entry->digest.assign(reinterpret_cast<const char*>(data) + entry->digest_at, kDigestDigits);
    auto tables = entry->tables;
    keep(all, std::move(entry));
    return tables;
}

memrec_pool* pool_for(int64_t lookups) {
    uint32_t threads = 1;
    if (lookups < kLookupsPerThread || torch_get_num_threads(&threads) || threads < 2) return nullptr;
    threads = std::min(threads, kMostThreads);
    memrec_pool *pool = pools[threads].load(std::memory_order_acquire), *fresh = nullptr;
    if (pool || memrec_make_pool(static_cast<int32_t>(threads), &fresh, nullptr) != MEMREC_OK) return pool;
#ifdef MEMREC_FORKS
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pools);
    (void)registered;
#endif
    if (pools[threads].compare_exchange_strong(pool, fresh)) return fresh;
    memrec_free_pool(fresh);
    return pool;
}

}  // namespace memrec
