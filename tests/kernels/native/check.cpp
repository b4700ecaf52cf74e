// Runs random tables of every form through each instruction set of this build and compares all bits with the scalar
// one's. Prints a line per instruction set and, last, a digest of the scalar bits, which is the same on every machine.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "lookup/engine.h"
#include "lookup/hashing.h"

namespace {

using namespace memrec;

// splitmix64: the same numbers everywhere.
struct Draw {
    uint64_t state;
    uint64_t next() {
        uint64_t z = (state += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }
    int64_t from(int64_t low, int64_t high) {  // inclusive
        return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
    }
    float real() { return static_cast<float>(from(-4096, 4096)) / 1024.0f; }
};

// Memory of the tables of one case; each piece stays where it is.
struct Store {
    std::deque<std::vector<uint8_t>> bytes;
    Derived derived;
    uint8_t* make(size_t size) {
        bytes.emplace_back(size + 8);
        return bytes.back().data();
    }
    uint8_t* noise(Draw& draw, size_t size) {
        uint8_t* made = make(size);
        for (size_t i = 0; i < size; ++i) made[i] = static_cast<uint8_t>(draw.next());
        return made;
    }
    float* floats(Draw& draw, size_t count) {
        auto* made = reinterpret_cast<float*>(make(count * 4));
        for (size_t i = 0; i < count; ++i) made[i] = draw.real();
        return made;
    }
    // fp16 or bf16 without infinities and NaN, subnormal numbers among them.
    uint16_t* halves(Draw& draw, size_t count) {
        auto* made = reinterpret_cast<uint16_t*>(make(count * 2));
        for (size_t i = 0; i < count; ++i) {
            const auto exponent = static_cast<uint64_t>(draw.from(0, 20));
            made[i] = static_cast<uint16_t>((draw.next() & 0x83FF) | (exponent << 10));
        }
        return made;
    }
    int8_t* tokens(Draw& draw, size_t count) {
        auto* made = reinterpret_cast<int8_t*>(make(count));
        for (size_t i = 0; i < count; ++i) made[i] = static_cast<int8_t>(draw.from(-127, 127));
        return made;
    }
};

Rows make_rows(Draw& draw, Store& store, Codec codec, size_t rows, size_t dim) {
    Rows made{codec, nullptr, nullptr};
    if (trellis_bits(codec)) {
        made.rows = store.noise(draw, rows * static_cast<size_t>(row_bytes(codec, static_cast<int64_t>(dim))));
        made.scale = store.noise(draw, rows);
        return made;
    }
    if (codec == Codec::fp32)
        made.rows = store.floats(draw, rows * dim);
    else if (codec == Codec::int8)
        made.rows = store.tokens(draw, rows * dim);
    else
        made.rows = store.halves(draw, rows * dim);
    if (codec == Codec::int8) made.scale = store.halves(draw, rows);
    return made;
}

void put_bits(uint8_t* packed, uint64_t position, uint32_t bits, uint64_t value) {
    for (uint32_t b = 0; b < bits; ++b)
        if ((value >> b) & 1) packed[(position + b) >> 3] |= static_cast<uint8_t>(1u << ((position + b) & 7));
}

Index make_bitmap(Store& store, uint64_t rows, const std::vector<uint64_t>& members) {
    Index index{};
    index.kind = IndexKind::bitmap;
    const uint64_t lines = (rows + kBitsPerLine - 1) / kBitsPerLine;
    index.bytes = static_cast<int64_t>(lines * kLineBytes);
    uint8_t* data = store.make(static_cast<size_t>(index.bytes));
    for (uint64_t id : members) put_bits(data + id / kBitsPerLine * kLineBytes, 32 + id % kBitsPerLine, 1, 1);
    for (uint64_t line = 0; line < lines; ++line) {
        const auto rank = static_cast<uint32_t>(
            std::count_if(members.begin(), members.end(), [&](uint64_t id) { return id < line * kBitsPerLine; }));
        put_bits(data + line * kLineBytes, 0, 32, rank);
    }
    index.data = data;
    return index;
}

// From one line, which most keys find no room in, to several per key.
void make_lines(Draw& draw, Store& store, Index& index, const std::vector<uint64_t>& mixed) {
    index.line_count = static_cast<uint64_t>(draw.from(1, static_cast<int64_t>(mixed.size())));
    auto* lines = reinterpret_cast<KeyLine*>(store.make(index.line_count * sizeof(KeyLine)));
    for (size_t i = mixed.size(); i-- > 0;) lines[(mixed[i] * index.line_count) >> index.mixed_bits].first = static_cast<uint32_t>(i);
    for (uint64_t one : mixed) {
        KeyLine& line = lines[(one * index.line_count) >> index.mixed_bits];
        if (line.held < kKeysPerLine) line.keys[line.held] = static_cast<uint16_t>(one);
        if (line.held <= kKeysPerLine) ++line.held;
    }
    index.lines = lines;
}

Index make_keys(Draw& draw, Store& store, uint64_t rows, const std::vector<uint64_t>& members) {
    Index index{};
    index.kind = IndexKind::keys;
    index.mixed_bits = 4;
    while ((1ull << index.mixed_bits) < rows) ++index.mixed_bits;
    index.key_bits = static_cast<uint32_t>(draw.from(4, std::min<int64_t>(16, index.mixed_bits)));
    std::vector<uint64_t> mixed;
    for (uint64_t id : members) mixed.push_back(mix_id(id, index.mixed_bits));
    std::sort(mixed.begin(), mixed.end());
    const uint64_t buckets = 1ull << (index.mixed_bits - index.key_bits), groups = buckets / 64 + 1;
    index.starts_at = static_cast<int64_t>(4 * groups);
    index.keys_at = index.starts_at + static_cast<int64_t>(2 * (buckets + 1));
    index.bytes = index.keys_at + static_cast<int64_t>((members.size() * index.key_bits + 7) / 8 + 8);
    uint8_t* data = store.make(static_cast<size_t>(index.bytes));
    const auto start_of_bucket = [&](uint64_t bucket) {
        return static_cast<uint64_t>(
            std::lower_bound(mixed.begin(), mixed.end(), bucket << index.key_bits) - mixed.begin());
    };
    for (uint64_t group = 0; group < groups; ++group) put_bits(data + 4 * group, 0, 32, start_of_bucket(64 * group));
    for (uint64_t bucket = 0; bucket <= buckets; ++bucket)
        put_bits(data + index.starts_at + 2 * bucket, 0, 16, start_of_bucket(bucket) - start_of_bucket(bucket / 64 * 64));
    for (size_t i = 0; i < mixed.size(); ++i)
        put_bits(data + index.keys_at, i * index.key_bits, index.key_bits, mixed[i] & ((1ull << index.key_bits) - 1));
    index.data = data;
    if (draw.from(0, 2)) make_lines(draw, store, index, mixed);
    return index;
}

uint32_t bits_between(const Table& table, int first, int last) {
    uint32_t bits = 0;
    for (int s = first; s < last; ++s) bits += table.stage[s].bits;
    return bits;
}

void make_stages(Draw& draw, Store& store, Table& table, int base_depth, int stages) {
    table.base_depth = base_depth;
    table.stages = stages;
    int first = 0, shift = 0;
    for (int s = 0; s < stages; ++s) {
        const auto bits = static_cast<uint32_t>(draw.from(1, 8));
        if (s && stages <= 6 && shift < 5) shift += static_cast<int>(draw.from(0, 1));  // sums stay within int16
        table.stage[s].bits = bits;
        table.stage[s].first = first;
        table.stage[s].shift = shift;
        first += 1 << bits;
    }
    table.codebook = store.tokens(draw, static_cast<size_t>(first) * static_cast<size_t>(table.dim));
    table.base_bits = bits_between(table, 0, base_depth);
    if (table.base_bits) table.base = store.noise(draw, (table.rows * table.base_bits + 7) / 8 + 8);
}

void make_level(Draw& draw, Store& store, Table& table, Level& level, const std::vector<uint64_t>& members) {
    level.index = draw.from(0, 1) ? make_bitmap(store, table.rows, members) : make_keys(draw, store, table.rows, members);
    level.index.count = members.size();
    level.stored = table.stages == table.base_depth || draw.from(0, 1);
    if (level.stored) {
        level.rows = make_rows(draw, store, static_cast<Codec>(draw.from(0, 9)), members.size(),
                               static_cast<size_t>(table.dim));
    } else {
        level.depth = static_cast<int32_t>(draw.from(table.base_depth + 1, table.stages));
        level.entry_bits = bits_between(table, table.base_depth, level.depth);
        level.codes = store.noise(draw, (members.size() * level.entry_bits + 7) / 8 + 8);
    }
}

void make_hashing(Draw& draw, Store& store, Table& table, bool whole, bool weighted) {
    Hashing& hashing = table.hashing;
    hashing.rows = static_cast<uint32_t>(draw.from(1, 500));
    hashing.seed = static_cast<uint32_t>(draw.next());
    hashing.k = static_cast<int32_t>(draw.from(1, draw.from(0, 3) ? 4 : kMostTokens));
    hashing.whole = whole;
    const size_t numbers = static_cast<size_t>(hashing.rows) * static_cast<size_t>(table.dim);
    hashing.tokens = whole ? static_cast<const void*>(store.tokens(draw, numbers)) : store.floats(draw, numbers);
    hashing.scale = store.floats(draw, 1);
    if (weighted) {
        hashing.blocks = static_cast<uint32_t>(draw.from(1, 9));
        hashing.k_weights = static_cast<int32_t>(draw.from(1, kWeightLanes));
        hashing.weights = store.halves(draw, hashing.blocks * kWeightLanes);
    }
}

enum Form { kKept, kCodes, kDeep, kMean, kHashed, kWeighted, kFloatTokens, kForms };

Table make_table(Draw& draw, Store& store, Form form) {
    Table table{};
    table.rows = static_cast<uint64_t>(draw.from(20, draw.from(0, 3) ? 900 : 40000));
    table.dim = static_cast<int32_t>(draw.from(0, 1) ? draw.from(1, 256) : 16 * draw.from(1, 8));
    table.outside = static_cast<Outside>(draw.from(1, 3));
    table.pooling = static_cast<Pooling>(draw.from(1, 2));
    table.padding = draw.from(0, 1) ? draw.from(0, 9) : -1;
    if (form == kKept) {
        table.kept = true;
        table.kept_rows = make_rows(draw, store, static_cast<Codec>(draw.from(0, 9)), table.rows,
                                    static_cast<size_t>(table.dim));
        return table;
    }
    table.frame = store.floats(draw, static_cast<size_t>(table.dim) + 1);
    const int base = form == kCodes ? static_cast<int>(draw.from(1, 4)) : form == kDeep ? 20 : 0;
    make_stages(draw, store, table, base, form == kDeep ? kMostStages : base + static_cast<int>(draw.from(0, 2)));
    if (form >= kHashed) make_hashing(draw, store, table, form != kFloatTokens, form == kWeighted);
    table.levels = static_cast<int32_t>(draw.from(0, kMostLevels));
    std::vector<uint64_t> order(table.rows);
    for (uint64_t i = 0; i < table.rows; ++i) order[i] = i;
    for (uint64_t i = table.rows - 1; i > 0; --i)
        std::swap(order[i], order[static_cast<size_t>(draw.from(0, static_cast<int64_t>(i)))]);
    for (int l = 0; l < table.levels; ++l) {
        const auto half = static_cast<int64_t>(table.rows / 2), first = l * half;
        std::vector<uint64_t> members(order.begin() + first, order.begin() + first + draw.from(1, std::min<int64_t>(half, 600)));
        make_level(draw, store, table, table.level[l], members);
    }
    store.derived.complete(table);
    return table;
}

struct Case {
    Store store;
    std::deque<Table> tables;
    std::vector<int64_t> columns;
    std::vector<Bags> bags;
    int64_t samples = 0, width = 0;

    Case(Draw& draw, bool pooled) {
        samples = draw.from(1, draw.from(0, 1) ? 20 : 700);
        for (int64_t t = draw.from(1, 8); t > 0; --t) {
            tables.push_back(make_table(draw, store, static_cast<Form>(draw.from(0, kForms - 1))));
            columns.push_back(width);
            width += tables.back().dim;
            bags.push_back(make_bags(draw, tables.back(), pooled));
        }
    }

    Bags make_bags(Draw& draw, const Table& table, bool pooled) {
        Bags made{};
        made.table = &table;
        made.outside = table.outside;
        made.narrow = draw.from(0, 1);
        made.stride = draw.from(1, 3);
        std::vector<int64_t> starts;
        for (int64_t b = 0; b < samples; ++b) {
            starts.push_back(made.count);
            made.count += pooled ? draw.from(0, draw.from(0, 9) ? 5 : 90) : 1;
        }
        uint8_t* ids = store.make(static_cast<size_t>(made.count * made.stride * 8));
        const auto rows = static_cast<int64_t>(table.rows);
        for (int64_t i = 0; i < made.count; ++i) {
            const int64_t id = draw.from(0, 19) ? draw.from(0, rows - 1) : draw.from(-rows, 2 * rows);
            if (made.narrow)
                reinterpret_cast<int32_t*>(ids)[i * made.stride] = static_cast<int32_t>(id);
            else
                reinterpret_cast<int64_t*>(ids)[i * made.stride] = id;
        }
        made.ids = ids;
        if (!pooled) return made;
        uint8_t* offsets = store.make(starts.size() * 8);
        std::memcpy(offsets, starts.data(), starts.size() * 8);
        made.offsets = offsets;
        if (table.pooling == Pooling::sum && draw.from(0, 1)) made.weights = store.floats(draw, made.count);
        return made;
    }

    std::vector<float> run(const Kernel* kernel, int threads, int64_t gap) const {
        std::vector<float> out(static_cast<size_t>(samples * (width + gap)), 7.0f);
        std::vector<Bags> placed = bags;
        for (size_t t = 0; t < placed.size(); ++t) {
            placed[t].out = out.data() + columns[t];
            placed[t].out_stride = width + gap;
        }
        static Pool pool;
        const Request request = {placed.data(), static_cast<int64_t>(placed.size()), samples, kernel, false, nullptr};
        if (look_up(request, &pool, threads).fault != Fault::none) out.clear();
        return out;
    }
};

bool same(const std::vector<float>& one, const std::vector<float>& other) {
    return !one.empty() && one.size() == other.size() && !std::memcmp(one.data(), other.data(), one.size() * 4);
}

}  // namespace

int main(int count, char** arguments) {
    const int cases = count > 1 ? std::stoi(arguments[1]) : 200;
    std::vector<std::string> names;
    for (const Kernel* const* one = available_kernels(); *one; ++one) names.emplace_back((*one)->name);
    std::vector<int> wrong(names.size());
    uint64_t digest = 0xCBF29CE484222325ull;
    for (int number = 0; number < cases; ++number) {
        Draw draw{static_cast<uint64_t>(number)};
        const Case one(draw, number % 2 == 1);
        const int64_t gap = draw.from(0, 3);
        const std::vector<float> expected = one.run(scalar_kernel(), 1, gap);
        for (float value : expected) {
            uint32_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            digest = (digest ^ bits) * 0x100000001B3ull;
        }
        for (size_t k = 0; k < names.size(); ++k)
            for (int threads : {1, 2}) wrong[k] += !same(one.run(available_kernels()[k], threads, gap), expected);
    }
    int all = 0;
    for (size_t k = 0; k < names.size(); ++k) {
        std::printf("%s: %d cases, %d differ\n", names[k].c_str(), cases, wrong[k]);
        all += wrong[k];
    }
    std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
    return all ? 1 : 0;
}
