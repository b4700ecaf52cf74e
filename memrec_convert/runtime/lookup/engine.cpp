#include "engine.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "core/cpu.h"
#include "scratch.h"

namespace memrec {
namespace {

constexpr int64_t kPiecesPerTask = 16;       // where several threads share them

struct Available {
    const Kernel* kernels[5] = {};  // null after the last
    Available() {
        int count = 0;
        const Features features = detect_features();
        if (features.avx512 && avx512_kernel()) kernels[count++] = avx512_kernel();
        if (features.avx2 && avx2_kernel()) kernels[count++] = avx2_kernel();
        if (neon_kernel()) kernels[count++] = neon_kernel();
        kernels[count] = scalar_kernel();
    }
};

Cut make_cut(const Request& request) {
    Cut cut{};
    for (int64_t t = 0; t < request.count; ++t) cut.any_bags = cut.any_bags || request.bags[t].offsets;
    cut.samples = request.samples;
    cut.tables = request.count;
    cut.samples_each = request.samples < kSlots ? request.samples : kSlots;
    cut.tables_each = cut.any_bags || request.samples >= kSlots ? 1 : kSlots / cut.samples_each;
    cut.across = (request.samples + cut.samples_each - 1) / cut.samples_each;
    cut.pieces = cut.across * ((request.count + cut.tables_each - 1) / cut.tables_each);
    return cut;
}

struct Tasks {
    const Request& request;
    const Cut& cut;
    int64_t pieces_each;
    std::atomic<bool> without_memory{false};
};

void run_task(void* context, int64_t number) {
    auto& tasks = *static_cast<Tasks*>(context);
    const int64_t first = number * tasks.pieces_each, last = first + tasks.pieces_each;
    try {
        tasks.request.kernel->run(tasks.request, tasks.cut, first, last < tasks.cut.pieces ? last : tasks.cut.pieces);
    } catch (const std::bad_alloc&) {  // of a thread's scratch; it must not leave the thread
        tasks.without_memory = true;
    }
}

int64_t find_outside(const Kernel& kernel, const Bags& bags, uint64_t rows) {
    if (!kernel.any_outside(bags, rows)) return -1;
    for (int64_t i = 0; i < bags.count; ++i)
        if (static_cast<uint64_t>(id_at(bags, i)) >= rows) return i;
    return -1;
}

int64_t find_bad_offset(const Bags& bags, int64_t samples) {
    int64_t before = 0;
    for (int64_t b = 0; b < samples; ++b) {
        const int64_t start = start_of(bags, b, samples);
        if (start < before || start > bags.count || (b == 0 && start != 0)) return b;
        before = start;
    }
    return -1;
}

int64_t find_nan(const Bags& bags) {
    for (int64_t i = 0; i < bags.count; ++i)
        if (std::isnan(load_at<float>(bags.weights, i))) return i;
    return -1;
}

Finding check(const Request& request) {
    for (int64_t t = 0; t < request.count; ++t) {
        const Bags& bags = request.bags[t];
        int64_t at = -1;
        if (bags.offsets && (at = find_bad_offset(bags, request.samples)) >= 0) return {Fault::offset, t, at};
        if (bags.weights && (at = find_nan(bags)) >= 0) return {Fault::weight, t, at};
        if (bags.outside != Outside::error) continue;
        if ((at = find_outside(*request.kernel, bags, bags.table->rows)) >= 0) return {Fault::id, t, at};
    }
    return {Fault::none, -1, -1};
}

struct AllKeyPlaces {
    KeyPlaces of_bits[17];
    AllKeyPlaces() {
        for (uint32_t bits = 1; bits <= 16; ++bits) {
            KeyPlaces& places = of_bits[bits];
            const uint32_t in_eight_bytes = bits <= 14 ? 4 : 2;
            places.at_once = 8 * in_eight_bytes;
            places.lanes = in_eight_bytes == 4 ? 0xFFFFFFFF : 0x33333333;
            for (uint32_t offset = 0; offset < 8; ++offset)
                for (uint32_t eighth = 0; eighth < 8; ++eighth)
                    place(places, offset, eighth, offset + eighth * in_eight_bytes * bits, bits);
        }
    }
    static void place(KeyPlaces& places, uint32_t offset, uint32_t eighth, uint32_t first_bit, uint32_t bits) {
        for (uint32_t byte = 0; byte < 8; ++byte) {
            const uint32_t bit = (first_bit & 7) + byte / 2 * bits + byte % 2 * 8;
            places.bytes_of[offset][8 * eighth + byte] = static_cast<uint8_t>((first_bit >> 3) + byte);
            places.bits_of[offset][8 * eighth + byte] = static_cast<uint8_t>(bit & 63);
        }
    }
};

const KeyPlaces* places_of_keys(uint32_t key_bits) {
    static const AllKeyPlaces all;
    return &all.of_bits[key_bits];
}

std::vector<Run> cut_code(const Table& table, int32_t first_stage, int32_t last_stage) {
    std::vector<Run> runs;
    uint32_t bit = 0;
    int32_t in_run = 0;
    for (int32_t s = first_stage; s < last_stage; ++s, ++in_run) {
        const Stage& stage = table.stage[s];
        if (runs.empty() || in_run == kRun || bit + stage.bits > 57u + static_cast<uint32_t>(runs.back().first_bit)) {
            runs.push_back(Run{});
            runs.back().first_bit = static_cast<int32_t>(bit);
            runs.back().first_stage = s;
            in_run = 0;
        }
        Run& run = runs.back();
        run.shift[in_run] = bit - static_cast<uint32_t>(run.first_bit);
        run.mask[in_run] = (1ull << stage.bits) - 1;
        run.start[in_run] = table.codebook + static_cast<int64_t>(stage.first) * table.dim;
        bit += stage.bits;
    }
    return runs;
}

Weights weigh_stages(const Table& table, int32_t depth) {
    Weights weights;
    for (int32_t s = 0; s < depth; ++s) weights.append(s, 1u << (table.stage[depth - 1].shift - table.stage[s].shift));
    return weights;
}

}  // namespace

Code Derived::keep(std::vector<Run> runs) {
    runs_.push_back(std::move(runs));
    return {runs_.back().data(), static_cast<int32_t>(runs_.back().size())};
}

void Derived::complete(Table& table) {
    table.base_code = keep(cut_code(table, 0, table.base_depth));
    table.base_weights = weigh_stages(table, table.base_depth);
    for (int l = 0; l < table.levels; ++l) {
        Level& level = table.level[l];
        if (level.index.kind == IndexKind::keys) level.index.places = places_of_keys(level.index.key_bits);
        if (level.stored) continue;
        level.code = keep(cut_code(table, table.base_depth, level.depth));
        level.weights = weigh_stages(table, level.depth);
    }
}

float* scratch_floats(int64_t floats) {
    static thread_local std::unique_ptr<float[]> memory;
    static thread_local int64_t held = 0;
    if (floats > held) {
        memory.reset(new float[static_cast<size_t>(floats)]);
        held = floats;
    }
    return memory.get();
}

const Kernel* const* available_kernels() {
    static const Available all;
    return all.kernels;
}

const Kernel* find_kernel(const char* name) {
    for (const Kernel* const* one = available_kernels(); *one; ++one)
        if (std::strcmp((*one)->name, name) == 0) return *one;
    return nullptr;
}

Finding look_up(const Request& request, Pool* pool, int threads) {
    const Finding finding = check(request);
    if (finding.fault != Fault::none || request.samples == 0 || request.count == 0) return finding;
    int64_t lookups = 0;
    for (int64_t t = 0; t < request.count; ++t) lookups += request.bags[t].count;
    const int64_t worth = request.clock ? 1 : 1 + lookups / kLookupsPerThread;
    const int used = !pool ? 1 : static_cast<int>(threads < worth ? threads : worth);
    const Cut cut = make_cut(request);
    Tasks tasks = {request, cut, used > 1 ? kPiecesPerTask : cut.pieces};
    const int64_t count = (cut.pieces + tasks.pieces_each - 1) / tasks.pieces_each;
    if (used < 2 || !pool->run(run_task, &tasks, count, used))
        for (int64_t number = 0; number < count; ++number) run_task(&tasks, number);
    return tasks.without_memory ? Finding{Fault::memory, -1, -1} : finding;
}

}  // namespace memrec
