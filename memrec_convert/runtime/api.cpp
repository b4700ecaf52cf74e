// The border: pointers are checked, exceptions become codes and sentences.
#include <algorithm>
#include <memory>
#include <new>

#include "core/failure.h"
#include "core/json.h"
#include "file/artifact.h"
#include "memrec.h"

#ifndef MEMREC_VERSION
#define MEMREC_VERSION "unknown"
#endif

struct memrec_artifact {
    std::string where;  // the file, for errors
    memrec::Artifact content;
};

struct memrec_pool {
    int32_t threads;
    memrec::Pool pool;
};

namespace {

using memrec::Artifact;
using memrec::Bags;
using memrec::Failure;
using memrec::Fault;

constexpr int64_t kStreamBytes = 2 << 20;  // outputs from this size on are written past the caches
constexpr int32_t kMostThreads = 256;

// Takes no memory: there may be none.
memrec_status report(memrec_error* error, memrec_status status, const char* where, const char* text) {
    if (!error) return status;
    *error = {status, -1, -1, {}};
    size_t length = 0;
    for (const char* part : {where, ": ", text})
        for (; *part && length + 1 < sizeof error->text; ++part) error->text[length++] = *part >= ' ' && *part <= '~' ? *part : '?';
    return status;
}

// Runs what may throw; `where` stands before the sentence.
template <class F>
memrec_status guard(memrec_error* error, const char* where, F f) {
    try {
        f();
        return MEMREC_OK;
    } catch (const Failure& failure) {
        return report(error, failure.code, where, failure.what());
    } catch (const std::bad_alloc&) {
        return report(error, MEMREC_NO_MEMORY, where, "there is not enough memory.");
    } catch (const std::exception& other) {
        return report(error, MEMREC_INTERNAL, where, other.what());
    } catch (...) {
        return report(error, MEMREC_INTERNAL, where, "an unknown error.");
    }
}

[[noreturn]] void refuse(const std::string& text) { throw Failure(MEMREC_BAD_ARGUMENT, text); }

const char* where_of(const memrec_artifact* artifact, const char* function) {
    return artifact ? artifact->where.c_str() : function;
}

const memrec::Kernel* kernel_of(const memrec_options& options) {
    if (options.flags & ~static_cast<uint32_t>(MEMREC_IN_PLACE)) refuse("options.flags has bits that are not known.");
    if (!options.instruction_set) return memrec::available_kernels()[0];
    const memrec::Kernel* found = memrec::find_kernel(options.instruction_set);
    if (!found) refuse("the instruction set " + memrec::quote(options.instruction_set) + " is not available here.");
    return found;
}

memrec_artifact* make(std::string where, std::unique_ptr<memrec::Memory> file, const uint8_t* data, uint64_t bytes,
                      const memrec_options* options) {
    const memrec_options chosen = options ? *options : memrec_options{};
    const bool in_place = chosen.flags & MEMREC_IN_PLACE;
    return new memrec_artifact{std::move(where), Artifact(std::move(file), data, bytes, in_place, kernel_of(chosen))};
}

Bags read_lookup(const Artifact& artifact, const memrec_lookup& from, int64_t bags) {
    const auto& tables = artifact.tables();
    if (from.table < 0 || static_cast<size_t>(from.table) >= tables.size()) refuse("there is no table of this number.");
    if (from.outside < MEMREC_AS_STORED || from.outside > MEMREC_OUTSIDE_ZERO) refuse("`outside` is none of memrec_outside.");
    if (from.id_bits != 32 && from.id_bits != 64) refuse("id_bits is neither 32 nor 64.");
    if (from.offsets && from.offset_bits != 32 && from.offset_bits != 64) refuse("offset_bits is neither 32 nor 64.");
    if (from.id_count < 0 || from.id_stride < 0 || from.out_stride < 0) refuse("a count or a stride is negative.");
    if ((from.id_count && !from.ids) || (bags && !from.out)) refuse("`ids` or `out` is null.");
    if (!from.offsets && from.id_count != bags) refuse("without offsets every bag has one id, and there are more or fewer.");
    if (from.offsets && !bags && from.id_count) refuse("there are ids and no bag to hold them.");
    const memrec::Table& table = *tables[static_cast<size_t>(from.table)].table;
    if (from.offsets && table.pooling == memrec::Pooling::none) refuse("the table does not pool; offsets are too much.");
    if (from.weights && !from.offsets) refuse("weights go with offsets.");
    if (from.weights && table.pooling == memrec::Pooling::mean) refuse("weights go with sums, and the table takes the mean.");
    if (from.out_stride && from.out_stride < table.dim) refuse("vectors would lie on each other: out_stride is below dim.");
    Bags made{};
    made.table = &table;
    made.outside = from.outside == MEMREC_AS_STORED ? table.outside : static_cast<memrec::Outside>(from.outside);
    made.ids = from.ids;
    made.narrow = from.id_bits == 32;
    made.stride = from.id_stride ? from.id_stride : 1;
    made.count = from.id_count;
    made.offsets = from.offsets;
    made.narrow_offsets = from.offset_bits == 32;
    made.weights = from.weights;
    made.out = from.out;
    made.out_stride = from.out_stride ? from.out_stride : table.dim;
    return made;
}

// Whether stores may pass by the caches: a large output whose vectors all lie on cache lines.
bool may_stream(const std::vector<Bags>& requested, int64_t bags) {
    int64_t bytes = 0;
    bool aligned = true;
    for (const Bags& one : requested) {
        bytes += 4 * bags * one.table->dim;
        const auto place = reinterpret_cast<uintptr_t>(one.out) | static_cast<uintptr_t>(4 * one.out_stride);
        aligned = aligned && !one.offsets && (place | static_cast<uintptr_t>(4 * one.table->dim)) % memrec::kLineBytes == 0;
    }
    return aligned && bytes >= kStreamBytes;
}

// The bags of this thread's request; kept, so that it allocates once.
std::vector<Bags>& requested_by_thread() {
    static thread_local std::vector<Bags> requested;
    requested.clear();
    return requested;
}

[[noreturn]] void refuse_fault(const memrec::NamedTable& table, const memrec::Finding& finding) {
    const std::string at = std::to_string(finding.position), rows = std::to_string(table.table->rows);
    switch (finding.fault) {
        case Fault::id:
            throw Failure(MEMREC_BAD_ID, table.path + ": id number " + at + " is outside the table's " + rows + " rows.");
        case Fault::offset:
            throw Failure(MEMREC_BAD_OFFSET, table.path + ": offsets must rise from 0 and stay within the ids; number " + at +
                                                 " does not.");
        case Fault::weight:
            throw Failure(MEMREC_BAD_WEIGHT, table.path + ": weight number " + at + " is NaN.");
        default:
            throw std::bad_alloc();
    }
}

}  // namespace

memrec_status memrec_open(const char* path, const memrec_options* options, memrec_artifact** artifact, memrec_error* error) {
    if (artifact) *artifact = nullptr;
    return guard(error, path ? path : "memrec_open", [&] {
        if (!path || !artifact) refuse("`path` or `artifact` is null.");
        std::unique_ptr<memrec::Memory> file = memrec::map_file(path);
        const uint8_t* data = file->data();
        const uint64_t bytes = file->size();
        *artifact = make(path, std::move(file), data, bytes, options);
    });
}

memrec_status memrec_open_buffer(const void* bytes, size_t count, const memrec_options* options, memrec_artifact** artifact,
                                 memrec_error* error) {
    if (artifact) *artifact = nullptr;
    return guard(error, "the buffer", [&] {
        if (!bytes || !artifact) refuse("`bytes` or `artifact` is null.");
        *artifact = make("the buffer", nullptr, static_cast<const uint8_t*>(bytes), count, options);
    });
}

memrec_status memrec_verify(const memrec_artifact* artifact, memrec_error* error) {
    return guard(error, where_of(artifact, "memrec_verify"), [&] {
        if (!artifact) refuse("`artifact` is null.");
        artifact->content.verify();
    });
}

void memrec_close(memrec_artifact* artifact) { delete artifact; }

int32_t memrec_count_tables(const memrec_artifact* artifact) {
    return artifact ? static_cast<int32_t>(artifact->content.tables().size()) : 0;
}

memrec_status memrec_get_table(const memrec_artifact* artifact, int32_t number, memrec_table* table, memrec_error* error) {
    return guard(error, where_of(artifact, "memrec_get_table"), [&] {
        if (!artifact || !table) refuse("`artifact` or `table` is null.");
        if (number < 0 || number >= memrec_count_tables(artifact)) refuse("there is no table of this number.");
        const memrec::NamedTable& found = artifact->content.tables()[static_cast<size_t>(number)];
        *table = {found.path.c_str(), found.name.c_str(), static_cast<int64_t>(found.table->rows),
                  static_cast<int64_t>(found.bytes), found.table->padding, found.table->dim,
                  static_cast<memrec_outside>(found.table->outside), static_cast<memrec_pooling>(found.table->pooling)};
    });
}

int32_t memrec_find_table(const memrec_artifact* artifact, const char* path) {
    if (!artifact || !path) return -1;
    const auto& tables = artifact->content.tables();
    const auto found = std::find_if(tables.begin(), tables.end(), [&](const auto& table) { return table.path == path; });
    return found == tables.end() ? -1 : static_cast<int32_t>(found - tables.begin());
}

memrec_status memrec_look_up(const memrec_artifact* artifact, const memrec_lookup* lookups, int64_t count, int64_t bags,
                             memrec_pool* pool, memrec_error* error) {
    int64_t at = -1, position = -1;
    const memrec_status status = guard(error, where_of(artifact, "memrec_look_up"), [&] {
        if (!artifact || (count && !lookups)) refuse("`artifact` or `lookups` is null.");
        if (count < 0 || bags < 0) refuse("a count is negative.");
        std::vector<Bags>& requested = requested_by_thread();
        for (at = 0; at < count; ++at) requested.push_back(read_lookup(artifact->content, lookups[at], bags));
        const bool stream = may_stream(requested, bags);
        const memrec::Request request = {requested.data(), count, bags, artifact->content.kernel(), stream, nullptr};
        const memrec::Finding finding = memrec::look_up(request, pool ? &pool->pool : nullptr, pool ? pool->threads : 1);
        at = finding.table;
        position = finding.position;
        if (finding.fault == Fault::memory) throw std::bad_alloc();
        if (finding.fault == Fault::none) return;
        refuse_fault(artifact->content.tables()[static_cast<size_t>(lookups[at].table)], finding);
    });
    if (status != MEMREC_OK && error) {
        error->lookup = static_cast<int32_t>(at);
        error->position = position;
    }
    return status;
}

memrec_status memrec_make_pool(int32_t threads, memrec_pool** pool, memrec_error* error) {
    if (pool) *pool = nullptr;
    return guard(error, "memrec_make_pool", [&] {
        if (!pool) refuse("`pool` is null.");
        if (threads < 1 || threads > kMostThreads) refuse("a pool has from 1 to 256 threads.");
        *pool = new memrec_pool{threads, {}};
    });
}

void memrec_free_pool(memrec_pool* pool) { delete pool; }

const char* memrec_version(void) { return MEMREC_VERSION; }

const char* memrec_instruction_set(int32_t number) {
    const memrec::Kernel* const* all = memrec::available_kernels();
    for (int32_t i = 0; i < number && *all; ++i) ++all;
    return number >= 0 && *all ? (*all)->name : nullptr;
}
