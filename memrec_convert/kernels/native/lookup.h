// The lookup itself, over the lanes of one instruction set `Isa`. Each instruction set's own file includes this one,
// compiled for that set; all is in an unnamed namespace, so that no copy of it can stand in for another's.
//
// A piece of at most kSlots lookups goes through four steps, each over the whole piece, so that the misses of one step
// are in flight together: read ids and ask for their index lines; find buckets and ask for keys; find places and ask
// for codes, rows or hashed tokens; decode and write, one form after the other.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>

#include "hashing.h"
#include "scratch.h"
#include "simd_scalar.h"
#include "tables.h"

// Assembler where there is some: GCC takes a function that only calls __builtin_prefetch for one without effect and drops
// calls of it.
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define MEMREC_PREFETCH(p) _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0)
#define MEMREC_INLINE
#define MEMREC_APART
#else
#if defined(__x86_64__)
#define MEMREC_PREFETCH(p) __asm__ volatile("prefetcht0 (%0)" : : "r"(p))
#elif defined(__aarch64__)
#define MEMREC_PREFETCH(p) __asm__ volatile("prfm pldl1keep, [%0]" : : "r"(p))
#else
#define MEMREC_PREFETCH(p) __builtin_prefetch(p)
#endif
#define MEMREC_INLINE __attribute__((always_inline))  // a closure that is called keeps its captures in memory
#define MEMREC_APART __attribute__((noinline))     // what is rarely needed leaves the registers to the rest
#endif

namespace memrec {
namespace {

constexpr int kAhead = 12;  // rows that are asked for before the one that is written
constexpr int kRing = 8, kToAsk = 2, kToSum = 6;  // a lookup's tokens are asked for after 2 others, summed after 6
constexpr int kFew = 20;    // fewer samples than this: the tokens of all are asked for before the first is summed
constexpr uint64_t kInCache = 64 << 10;  // bytes (of rows: numbers) that stay near the core by themselves
constexpr int kShort = 16;  // fewer lookups of a table in a piece than this: its rows are asked for at once

enum Form : uint8_t { kBase = 0, kZero = 1 + kMostLevels, kForms };  // and 1 + level

template <int n>
struct Const {
    static constexpr int value = n;
};

// What is known of each lookup of a piece.
struct Slots {
    uint64_t id[kSlots];
    uint64_t place[kSlots];
    uint64_t keys[kMostLevels][kSlots];  // the id as the index mixes it, then the first key of its bucket
    uint16_t in_bucket[kMostLevels][kSlots];
    uint16_t key[kMostLevels][kSlots];
    Hash hash[kSlots];
    uint16_t list[kForms][kSlots];  // slots by form; those of a span begin at its first slot
};

// The lookups of one table in a piece: slots [first, last), whose vectors go to `out`. At first all are of the base's
// form; each level takes its own out of that list, so that no later loop asks a lookup for its form.
struct Span {
    const Table* table;
    int first, last;
    float* out;
    int64_t stride;
    int counts[kForms];
};

inline uint64_t load_64(const uint8_t* p) {
    uint64_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}

inline uint32_t load_32(const uint8_t* p) {
    uint32_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}

inline uint16_t load_16(const uint8_t* p) {
    uint16_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}

inline void prefetch_bytes(const void* start, int64_t bytes) {
    const auto* p = static_cast<const char*>(start);
    for (int64_t at = 0; at < bytes; at += kLineBytes) MEMREC_PREFETCH(p + at);
    MEMREC_PREFETCH(p + bytes - 1);
}

inline int64_t bytes_per_value(Codec codec) { return codec == Codec::fp32 ? 4 : codec == Codec::int8 ? 1 : 2; }

inline void prefetch_row(const Rows& rows, uint64_t number, int32_t dim) {
    const int64_t bytes = dim * bytes_per_value(rows.codec);
    prefetch_bytes(static_cast<const char*>(rows.rows) + number * bytes, bytes);
    if (rows.codec == Codec::int8) MEMREC_PREFETCH(rows.scale + number);
}

inline uint64_t nanoseconds() {
    return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

// Calls f(lanes, blocks, column) over a row of `dim`, the widest lanes first.
template <class Isa, class F>
MEMREC_INLINE inline void for_columns(int dim, F f) {
    using Wide = typename Isa::Wide;
    int column = 0;
    for (; dim - column >= 2 * Wide::lanes; column += 2 * Wide::lanes) f(Wide{}, Const<2>{}, column);
    if (dim - column >= Wide::lanes) {
        f(Wide{}, Const<1>{}, column);
        column += Wide::lanes;
    }
    if (column < dim) Isa::for_rest(dim, column, f);
}

template <class Lanes, class F>
MEMREC_INLINE inline void for_one(int dim, int& column, F f) {
    if (dim - column < Lanes::lanes) return;
    f(Lanes{}, Const<1>{}, column);
    column += Lanes::lanes;
}

template <class F>
MEMREC_INLINE inline void for_last(int dim, int& column, F f) {
    for (; column < dim; ++column) f(Plain<1>{}, Const<1>{}, column);
}

// Tokens to be summed, two at a time; an odd last one is paired with itself at the weight 0.
struct Tokens {
    const int8_t* at[kMostTokens + kRun];

    void close(int count) {
        if (count & 1) at[count] = at[count - 1];
    }
};

struct Weights {
    uint16_t of_pair[kMostTokens / 2 + 1];
    int pairs = 0;

    // Of the first token on; the one after the last weighs nothing.
    void append(int token, unsigned weight) {
        uint16_t& both = of_pair[token / 2];
        both = static_cast<uint16_t>(token % 2 ? both | (weight << 8) : weight);
        pairs = token / 2 + 1;
    }
};

// Weighted sum of int8 tokens, times the factor (and alpha), plus the centre.
template <class Isa, bool stream, bool weighted>
MEMREC_INLINE inline void write_sum(const Tokens& tokens, const Weights& weights, int dim, float factor, float alpha,
                                    const float* centre, float* out) {
    for_columns<Isa>(dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
        using Lanes = decltype(lanes);
        constexpr int n = decltype(blocks)::value;
        typename Lanes::Sum sum[n];
        const auto first = Lanes::weights(weights.of_pair[0]);
        for (int b = 0; b < n; ++b) {
            const int at = column + b * Lanes::lanes;
            sum[b] = Lanes::pair(tokens.at[0] + at, tokens.at[1] + at, first);
        }
        for (int p = 1; p < weights.pairs; ++p) {
            const auto by = Lanes::weights(weights.of_pair[p]);
            for (int b = 0; b < n; ++b) {
                const int at = column + b * Lanes::lanes;
                sum[b] = Lanes::add(sum[b], Lanes::pair(tokens.at[2 * p] + at, tokens.at[2 * p + 1] + at, by));
            }
        }
        for (int b = 0; b < n; ++b) {
            const int at = column + b * Lanes::lanes;
            auto floats = Lanes::multiply(Lanes::to_floats(sum[b]), factor);
            if (weighted) floats = Lanes::multiply(floats, alpha);
            if (centre) floats = Lanes::add(floats, Lanes::load(centre + at));
            Lanes::template store<stream>(out + at, floats);
        }
    });
}

template <class Isa>
class Lookup {
  public:
    static void run(const Request& request, const Piece& piece) {
        Slots slots;
        const bool pooled = request.bags[piece.first_table].offsets != nullptr;
        if (pooled) {
            for (int64_t t = piece.first_table; t < piece.last_table; ++t) run_bags(request, t, piece, slots);
        } else if (request.stream) {
            run_grid<true>(request, piece, slots);
            Isa::fence();
        } else {
            run_grid<false>(request, piece, slots);
        }
    }

  private:
    template <bool stream>
    static void run_grid(const Request& request, const Piece& piece, Slots& slots) {
        Span spans[kSlots];
        int count = 0, slot = 0;
        uint64_t times[kSteps + 1];
        const auto samples = static_cast<int>(piece.last - piece.first);
        if (request.clock) times[0] = nanoseconds();
        for (int64_t t = piece.first_table; t < piece.last_table; ++t) {
            const Table& table = request.tables[t];
            Span& span = spans[count++];
            span = {&table, slot, slot + samples, vector_of(request, table, piece.first), stride_of(request, table), {}};
            slot += samples;
            read(span, request.bags[t], piece.first, slots);
        }
        if (request.clock) times[1] = nanoseconds();
        for (int s = 0; s < count; ++s) find_buckets(spans[s], slots);
        if (request.clock) times[2] = nanoseconds();
        for (int s = 0; s < count; ++s) find_places(spans[s], slots);
        // With few lookups of each table there is nothing to do while the tokens of one come: all are asked for at once.
        for (int s = 0; s < (samples < kFew ? count : 0); ++s) ask_for_codes(spans[s], slots);
        if (request.clock) times[3] = nanoseconds();
        for (int s = 0; s < count; ++s) write<stream>(spans[s], slots);
        if (request.clock) {
            times[4] = nanoseconds();
            for (int step = 0; step < kSteps; ++step) request.clock[step] += times[step + 1] - times[step];
        }
    }

    // Bags of several ids: rows go to a scratch of kSlots rows and from there, in order, into their bag's sum.
    static void run_bags(const Request& request, int64_t number, const Piece& piece, Slots& slots) {
        const Table& table = request.tables[number];
        const Bags& bags = request.bags[number];
        float* scratch = scratch_floats(static_cast<int64_t>(kSlots) * table.dim);
        int64_t bag = piece.first, in_bag = 0;
        int64_t position = start_of(bags, piece.first, request.samples);
        const int64_t last = start_of(bags, piece.last, request.samples);
        float* out = vector_of(request, table, bag);
        clear(out, table.dim);
        const auto close = [&] {
            if (table.pooling == Pooling::mean && in_bag > 1) divide(out, table.dim, static_cast<float>(in_bag));
            in_bag = 0;
            if (++bag < piece.last) {
                out += stride_of(request, table);
                clear(out, table.dim);
            }
        };
        while (position < last) {
            const auto n = static_cast<int>(last - position < kSlots ? last - position : kSlots);
            Span span = {&table, 0, n, scratch, table.dim, {}};
            read(span, bags, position, slots);
            find_buckets(span, slots);
            find_places(span, slots);
            write<false>(span, slots);
            for (int i = 0; i < n; ++i) {
                while (position + i >= start_of(bags, bag + 1, request.samples)) close();
                if (id_at(bags, position + i) == table.padding && table.padding >= 0) continue;
                add_row(out, scratch + static_cast<int64_t>(i) * table.dim, table.dim,
                        bags.weights ? bags.weights + position + i : nullptr);
                ++in_bag;
            }
            position += n;
        }
        while (bag < piece.last) close();
    }

    static void read(Span& span, const Bags& bags, int64_t first, Slots& slots) {
        const Table& table = *span.table;
        const int n = span.last - span.first;
        uint64_t* ids = slots.id + span.first;
        if (bags.narrow) {
            for (int i = 0; i < n; ++i)
                ids[i] = static_cast<uint64_t>(static_cast<int64_t>(load_at<int32_t>(bags.ids, (first + i) * bags.stride)));
        } else {
            for (int i = 0; i < n; ++i) ids[i] = load_at<uint64_t>(bags.ids, (first + i) * bags.stride);
        }
        uint64_t outside = 0;
        uint16_t* list = slots.list[kBase] + span.first;
        for (int i = 0; i < n; ++i) {
            list[i] = static_cast<uint16_t>(span.first + i);
            outside |= static_cast<uint64_t>(ids[i] >= table.rows);
        }
        span.counts[kBase] = n;
        if (outside || table.padding >= 0) set_apart(span, bags, first, slots);
        ask_for_lines(span, slots);
    }

    // Brings ids inside the table and takes those that read as zero out of the base's list.
    static void set_apart(Span& span, const Bags& bags, int64_t first, Slots& slots) {
        const Table& table = *span.table;
        const auto rows = static_cast<int64_t>(table.rows);
        uint16_t* list = slots.list[kBase] + span.first;
        uint16_t* zeros = slots.list[kZero] + span.first;
        int kept = 0, zero = 0;
        for (int slot = span.first; slot < span.last; ++slot) {
            const auto id = static_cast<int64_t>(slots.id[slot]);
            const bool outside = id < 0 || id >= rows;
            const bool is_zero = (outside && table.outside == Outside::zero) ||
                                 (table.padding >= 0 && id_at(bags, first + slot - span.first) == table.padding);
            if (outside && table.outside == Outside::hash)
                slots.id[slot] = static_cast<uint64_t>((id % rows + rows) % rows);
            else if (outside)
                slots.id[slot] = static_cast<uint64_t>(id < 0 || table.outside == Outside::error ? 0 : rows - 1);
            (is_zero ? zeros[zero++] : list[kept++]) = static_cast<uint16_t>(slot);
        }
        span.counts[kBase] = kept;
        span.counts[kZero] = zero;
    }

    // Of an index of keys the mixed ids are kept, where the first keys of the buckets will be.
    static void ask_for_lines(const Span& span, Slots& slots) {
        const Table& table = *span.table;
        const uint64_t* ids = slots.id + span.first;
        const int n = span.last - span.first;
        if (table.kept) {
            if (n < kShort)
                for (int i = 0; i < n; ++i) prefetch_row(table.kept_rows, ids[i], table.dim);
            return;
        }
        if (n < kShort) {
            prefetch_bytes(table.frame, 4 * (1 + static_cast<int64_t>(table.dim)));
            prefetch_bytes(table.stage, static_cast<int64_t>(sizeof(Stage)) * table.stages + 1);
        }
        for (int l = 0; l < table.levels; ++l) {
            const Index& index = table.level[l].index;
            if (n < kShort) MEMREC_PREFETCH(table.level[l].code.runs);
            if (index.kind == IndexKind::bitmap) {
                for (int i = 0; i < n; ++i) MEMREC_PREFETCH(index.data + ids[i] / kBitsPerLine * kLineBytes);
            } else {
                uint64_t* mixed = slots.keys[l] + span.first;
                for (int i = 0; i < n; ++i) {
                    mixed[i] = mix_id(ids[i], index.mixed_bits);
                    const uint64_t bucket = mixed[i] >> index.key_bits;
                    MEMREC_PREFETCH(index.data + (bucket >> 6) * 4);
                    MEMREC_PREFETCH(index.data + index.starts_at + bucket * 2);
                }
            }
        }
        if (table.base_bits)
            for (int i = 0; i < n; ++i) prefetch_code(table.base, ids[i], table.base_bits);
    }

    static void prefetch_code(const uint8_t* codes, uint64_t entry, uint32_t bits) {
        const uint8_t* p = codes + ((entry * bits) >> 3);
        MEMREC_PREFETCH(p);
        MEMREC_PREFETCH(p + 7);
    }

    static uint64_t bucket_start(const Index& index, uint64_t bucket) {
        const uint64_t start = static_cast<uint64_t>(load_32(index.data + (bucket >> 6) * 4)) +
                               load_16(index.data + index.starts_at + bucket * 2);
        return start < index.count ? start : index.count;
    }

    static void find_buckets(const Span& span, Slots& slots) {
        const Table& table = *span.table;
        for (int l = 0; l < (table.kept ? 0 : table.levels); ++l) {
            const Index& index = table.level[l].index;
            if (index.kind != IndexKind::keys) continue;
            const uint8_t* keys = index.data + index.keys_at;
            const uint64_t mask = (1ull << index.key_bits) - 1;
            for (int i = span.first; i < span.last; ++i) {
                const uint64_t mixed = slots.keys[l][i], bucket = mixed >> index.key_bits;
                const uint64_t start = bucket_start(index, bucket), stop = bucket_start(index, bucket + 1);
                const uint64_t held = stop > start ? stop - start : 0;
                slots.keys[l][i] = start;
                slots.key[l][i] = static_cast<uint16_t>(mixed & mask);
                slots.in_bucket[l][i] = static_cast<uint16_t>(held < 0xFFFF ? held : 0xFFFF);
                MEMREC_PREFETCH(keys + ((start * index.key_bits) >> 3));
                MEMREC_PREFETCH(keys + ((stop * index.key_bits) >> 3));
            }
        }
    }

    static void find_places(Span& span, Slots& slots) {
        const Table& table = *span.table;
        if (table.kept) return;
        for (int l = 0; l < table.levels; ++l) {
            const Level& level = table.level[l];
            if (level.index.kind == IndexKind::keys)
                take_members(l, span, slots, [&](int slot) MEMREC_INLINE { return find_key(level.index, l, slot, slots); });
            else
                take_members(l, span, slots, [&](int slot) MEMREC_INLINE { return find_bit(level.index, slot, slots); });
            const uint16_t* members = slots.list[1 + l] + span.first;
            const int n = span.counts[1 + l];
            if (!level.stored)
                for (int i = 0; i < n; ++i) prefetch_code(level.codes, slots.place[members[i]], level.entry_bits);
            else if (span.last - span.first < kShort)
                for (int i = 0; i < n; ++i) prefetch_row(level.rows, slots.place[members[i]], table.dim);
        }
        if (!table.hashing.tokens) return;
        for (int i = 0; i < span.counts[kBase]; ++i) ask_for_tokens(table, slots.list[kBase][span.first + i], slots);
    }

    // Moves the lookups whose place is found from the base's list to the level's. Both lists are written every time and
    // only their lengths differ: which way a lookup goes cannot be foretold. For the same reason `find` says -1 by
    // arithmetic, not by a choice that a compiler may make a branch.
    template <class F>
    MEMREC_INLINE static void take_members(int l, Span& span, Slots& slots, F find) {
        uint16_t* rest = slots.list[kBase] + span.first;
        uint16_t* members = slots.list[1 + l] + span.first;
        int kept = 0, taken = 0;
        for (int i = 0; i < span.counts[kBase]; ++i) {
            const uint16_t slot = rest[i];
            const int64_t place = find(slot);
            slots.place[slot] = static_cast<uint64_t>(place);
            members[taken] = slot;
            rest[kept] = slot;
            taken += place >= 0;
            kept += place < 0;
        }
        span.counts[1 + l] = taken;
        span.counts[kBase] = kept;
    }

    MEMREC_INLINE static int64_t find_key(const Index& index, int l, int slot, const Slots& slots) {
        const uint64_t first = slots.keys[l][slot];
        const int64_t at = Isa::find_key(index, first, slots.in_bucket[l][slot], slots.key[l][slot]);
        return (static_cast<int64_t>(first) + at) | -static_cast<int64_t>(at < 0);
    }

    MEMREC_INLINE static int64_t find_bit(const Index& index, int slot, const Slots& slots) {
        const uint64_t line_number = slots.id[slot] / kBitsPerLine;
        const uint64_t bit = slots.id[slot] - line_number * kBitsPerLine + 32;
        const uint8_t* line = index.data + line_number * kLineBytes;
        const uint64_t member = (line[bit >> 3] >> (bit & 7)) & 1;
        const uint64_t place = load_32(line) + Isa::count_before(line, static_cast<uint32_t>(bit));
        return static_cast<int64_t>(place | ((member & static_cast<uint64_t>(place < index.count)) - 1));
    }

    static void ask_for_tokens(const Table& table, int slot, Slots& slots) {
        const Hashing& hashing = table.hashing;
        const Hash hash = slots.hash[slot] = hash_id(slots.id[slot], hashing.seed);
        const int64_t bytes = static_cast<int64_t>(table.dim) * (hashing.whole ? 1 : 4);
        for (int j = 0; j < hashing.k; ++j) {
            const auto number = static_cast<int64_t>(token_number(hash, j, hashing.rows));
            prefetch_bytes(static_cast<const char*>(hashing.tokens) + number * bytes, bytes);
        }
        if (hashing.k_weights) {
            const uint16_t* block = hashing.weights + weight_block(hash, hashing.blocks) * kWeightLanes;
            MEMREC_PREFETCH(block);
            MEMREC_PREFETCH(block + kWeightLanes - 1);
        }
    }

    template <bool stream>
    static void write(const Span& span, Slots& slots) {
        const Table& table = *span.table;
        const int* counts = span.counts;
        const auto list_of = [&](int form) { return slots.list[form] + span.first; };
        for (int i = 0; i < counts[kZero]; ++i) clear(row_of(span, list_of(kZero)[i]), table.dim);
        if (table.kept) {
            write_rows<stream>(table.kept_rows, table.rows, span, slots.id, list_of(kBase), counts[kBase]);
            return;
        }
        if (table.base_depth)
            write_codes<stream>(nullptr, span, slots, list_of(kBase), counts[kBase]);
        else if (table.hashing.tokens)
            write_hashed<stream>(span, slots, list_of(kBase), counts[kBase]);
        else
            write_centre<stream>(span, list_of(kBase), counts[kBase]);
        for (int l = 0; l < table.levels; ++l) {
            if (table.level[l].stored)
                write_rows<stream>(table.level[l].rows, table.level[l].index.count, span, slots.place, list_of(1 + l), counts[1 + l]);
            else
                write_codes<stream>(&table.level[l], span, slots, list_of(1 + l), counts[1 + l]);
        }
    }

    static float* row_of(const Span& span, int slot) { return span.out + (slot - span.first) * span.stride; }

    // Points at one token per stage of a code that starts at bit `position`; a run may write past its last stage.
    static void read_codes(const Table& table, const Code& code, const uint8_t* codes, uint64_t position,
                           Tokens& tokens) {
        for (int r = 0; r < code.count; ++r) {
            const Run& run = code.runs[r];
            const uint64_t bit = position + static_cast<uint64_t>(run.first_bit);
            Isa::read_run(run, load_64(codes + (bit >> 3)) >> (bit & 7), table.codebook, table.dim,
                          tokens.at + run.first_stage);
        }
    }

    template <bool stream>
    static void write_codes(const Level* level, const Span& span, const Slots& slots, const uint16_t* list, int n) {
        if (!n) return;
        const Table& table = *span.table;
        const int depth = level ? level->depth : table.base_depth;
        const int32_t shift = table.stage[depth - 1].shift;
        const float factor = load_at<float>(table.frame, 0) * power_of_half(shift);
        Weights weights;
        for (int s = 0; s < depth; ++s) weights.append(s, 1u << (shift - table.stage[s].shift));
        // Three lookups are under way: of one the tokens are found, of one they are asked for, of one they are summed.
        // Each step reads what was stored a whole lookup ago: addresses stored as one vector cannot be read at once.
        Tokens ring[kRing];
        const Stage& last = table.stage[depth - 1];
        const bool ask = ((static_cast<uint64_t>(last.first) + (1ull << last.bits)) * static_cast<uint64_t>(table.dim)) > kInCache;
        for (int i = 0; i < n + kToSum; ++i) {
            if (i < n) find_tokens(level, table, slots, list[i], depth, ring[i % kRing]);
            if (ask && i >= kToAsk && i - kToAsk < n) ask_for(ring[(i - kToAsk) % kRing], depth, table.dim);
            if (i < kToSum) continue;
            write_sum<Isa, stream, false>(ring[(i - kToSum) % kRing], weights, table.dim, factor, 1.0f, table.frame + 1,
                                          row_of(span, list[i - kToSum]));
        }
    }

    static void find_tokens(const Level* level, const Table& table, const Slots& slots, int slot, int depth,
                            Tokens& tokens) {
        if (table.base_depth) read_codes(table, table.base_code, table.base, slots.id[slot] * table.base_bits, tokens);
        if (level) read_codes(table, level->code, level->codes, slots.place[slot] * level->entry_bits, tokens);
        tokens.close(depth);
    }

    static void ask_for_codes(const Span& span, const Slots& slots) {
        const Table& table = *span.table;
        Tokens tokens[2];
        for (int form = table.base_depth ? 0 : 1; form <= (table.kept ? 0 : table.levels); ++form) {
            const Level* level = form ? &table.level[form - 1] : nullptr;
            if (level && level->stored) continue;
            const int depth = level ? level->depth : table.base_depth;
            const uint16_t* list = slots.list[form] + span.first;
            for (int i = 0; i <= span.counts[form]; ++i) {
                if (i < span.counts[form]) find_tokens(level, table, slots, list[i], depth, tokens[i % 2]);
                if (i) ask_for(tokens[(i - 1) % 2], depth, table.dim);
            }
        }
    }

    static void ask_for(const Tokens& tokens, int count, int32_t dim) {
        if (dim <= kLineBytes) {
            for (int s = 0; s < count; ++s) MEMREC_PREFETCH(tokens.at[s]);
            return;
        }
        for (int s = 0; s < count; ++s)
            for (int32_t at = 0; at < dim; at += kLineBytes) MEMREC_PREFETCH(tokens.at[s] + at);
    }

    template <bool stream>
    static void write_hashed(const Span& span, const Slots& slots, const uint16_t* list, int n) {
        const Table& table = *span.table;
        const Hashing& hashing = table.hashing;
        const float* wide[kMostTokens];
        Tokens tokens;
        Weights weights;
        const auto unit = load_at<float>(hashing.scale, 0);
        for (int j = 0; j < hashing.k; ++j) weights.append(j, 1);
        for (int i = 0; i < n; ++i) {
            const int slot = list[i];
            const Hash& hash = slots.hash[slot];
            float* out = row_of(span, slot);
            float alpha = 1.0f;
            if (hashing.k_weights) {
                const uint16_t* block = hashing.weights + weight_block(hash, hashing.blocks) * kWeightLanes;
                alpha = Isa::to_float(load_at<uint16_t>(block, hash.h2 & 15));
                for (int j = 1; j < hashing.k_weights; ++j)
                    alpha += Isa::to_float(load_at<uint16_t>(block, (hash.h2 >> (4 * j)) & 15));
            }
            for (int j = 0; j < hashing.k; ++j) {
                const auto at = static_cast<int64_t>(token_number(hash, j, hashing.rows)) * table.dim;
                if (hashing.whole)
                    tokens.at[j] = static_cast<const int8_t*>(hashing.tokens) + at;
                else
                    wide[j] = static_cast<const float*>(hashing.tokens) + at;
            }
            tokens.close(hashing.k);
            if (!hashing.whole)
                write_wide<stream>(wide, hashing, table, alpha, out);
            else if (hashing.k_weights)
                write_sum<Isa, stream, true>(tokens, weights, table.dim, unit, alpha, table.frame + 1, out);
            else
                write_sum<Isa, stream, false>(tokens, weights, table.dim, unit, 1.0f, table.frame + 1, out);
        }
    }

    template <bool stream>
    static void write_wide(const float* const* tokens, const Hashing& hashing, const Table& table, float alpha,
                           float* out) {
        for_columns<Isa>(table.dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
            using Lanes = decltype(lanes);
            for (int b = 0; b < decltype(blocks)::value; ++b) {
                const int at = column + b * Lanes::lanes;
                auto sum = Lanes::load(tokens[0] + at);
                for (int j = 1; j < hashing.k; ++j) sum = Lanes::add(sum, Lanes::load(tokens[j] + at));
                if (hashing.k_weights) sum = Lanes::multiply(sum, alpha);
                Lanes::template store<stream>(out + at, Lanes::add(sum, Lanes::load(table.frame + 1 + at)));
            }
        });
    }

    template <bool stream>
    static void write_centre(const Span& span, const uint16_t* list, int n) {
        const Table& table = *span.table;
        for (int i = 0; i < n; ++i) {
            float* out = row_of(span, list[i]);
            for_columns<Isa>(table.dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
                using Lanes = decltype(lanes);
                for (int b = 0; b < decltype(blocks)::value; ++b) {
                    const int at = column + b * Lanes::lanes;
                    Lanes::template store<stream>(out + at, Lanes::load(table.frame + 1 + at));
                }
            });
        }
    }

    template <bool stream>
    static void write_rows(const Rows& rows, uint64_t held, const Span& span, const uint64_t* numbers,
                           const uint16_t* list, int n) {
        // What gives a row's loader is called once per row, the loader for each of its vectors.
        const auto write_all = [&](auto loader_of) MEMREC_INLINE {
            const auto dim = span.table->dim;
            const bool prefetch = span.last - span.first >= kShort && held * static_cast<uint64_t>(dim) > kInCache;
            for (int i = 0; i < (prefetch ? (n < kAhead ? n : kAhead) : 0); ++i) prefetch_row(rows, numbers[list[i]], dim);
            for (int i = 0; i < n; ++i) {
                if (prefetch && i + kAhead < n) prefetch_row(rows, numbers[list[i + kAhead]], dim);
                const auto number = static_cast<int64_t>(numbers[list[i]]);
                const auto load = loader_of(number);
                float* out = row_of(span, list[i]);
                for_columns<Isa>(dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
                    using Lanes = decltype(lanes);
                    for (int b = 0; b < decltype(blocks)::value; ++b) {
                        const int at = column + b * Lanes::lanes;
                        Lanes::template store<stream>(out + at, load(lanes, number * dim + at));
                    }
                });
            }
        };
        switch (rows.codec) {
            case Codec::fp32:
                write_all([&](int64_t) MEMREC_INLINE {
                    return [&](auto lanes, int64_t at) MEMREC_INLINE { return decltype(lanes)::load(static_cast<const float*>(rows.rows) + at); };
                });
                break;
            case Codec::bf16:
                write_all([&](int64_t) MEMREC_INLINE {
                    return [&](auto lanes, int64_t at) MEMREC_INLINE {
                        return decltype(lanes)::load_bf16(static_cast<const uint16_t*>(rows.rows) + at);
                    };
                });
                break;
            case Codec::fp16:
                write_all([&](int64_t) MEMREC_INLINE {
                    return [&](auto lanes, int64_t at) MEMREC_INLINE {
                        return decltype(lanes)::load_fp16(static_cast<const uint16_t*>(rows.rows) + at);
                    };
                });
                break;
            case Codec::int8:
                write_all([&](int64_t number) MEMREC_INLINE {
                    const float scale = Isa::to_float(load_at<uint16_t>(rows.scale, number));
                    return [&rows, scale](auto lanes, int64_t at) MEMREC_INLINE {
                        using Lanes = decltype(lanes);
                        return Lanes::multiply(Lanes::load_int8(static_cast<const int8_t*>(rows.rows) + at), scale);
                    };
                });
                break;
        }
    }

    static float power_of_half(int shift) { return from_bits(static_cast<uint32_t>(127 - shift) << 23); }

    static void clear(float* out, int dim) { std::memset(out, 0, sizeof(float) * static_cast<size_t>(dim)); }

    static void add_row(float* out, const float* row, int dim, const float* weight) {
        for_columns<Isa>(dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
            using Lanes = decltype(lanes);
            for (int b = 0; b < decltype(blocks)::value; ++b) {
                const int at = column + b * Lanes::lanes;
                auto values = Lanes::load(row + at);
                if (weight) values = Lanes::multiply(values, load_at<float>(weight, 0));
                Lanes::template store<false>(out + at, Lanes::add(Lanes::load(out + at), values));
            }
        });
    }

    static void divide(float* out, int dim, float by) {
        for_columns<Isa>(dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
            using Lanes = decltype(lanes);
            for (int b = 0; b < decltype(blocks)::value; ++b) {
                const int at = column + b * Lanes::lanes;
                Lanes::template store<false>(out + at, Lanes::divide(Lanes::load(out + at), by));
            }
        });
    }
};

template <class Isa>
bool any_outside(const Bags& bags, uint64_t rows) {
    if (!bags.narrow && bags.stride == 1) return Isa::any_at_or_past(static_cast<const uint64_t*>(bags.ids), bags.count, rows);
    bool outside = false;
    for (int64_t i = 0; i < bags.count; ++i) outside |= static_cast<uint64_t>(id_at(bags, i)) >= rows;
    return outside;
}

// Sums of int8 rows whose numbers are given: what a lookup would cost if nothing had to be found.
template <class Isa>
void sum_rows(const int8_t* rows, int32_t dim, const int32_t* numbers, const uint8_t* counts, int32_t most,
              const float* factors, int64_t n, float* out) {
    Tokens tokens;
    Weights weights;
    for (int j = 0; j < most; ++j) weights.append(j, 1);
    for (int64_t i = 0; i < n; ++i) {
        const int count = counts[i];
        for (int j = 0; j < count; ++j) tokens.at[j] = rows + static_cast<int64_t>(numbers[i * most + j]) * dim;
        tokens.close(count);
        weights.pairs = (count + 1) / 2;
        write_sum<Isa, false, false>(tokens, weights, dim, factors[i], 1.0f, nullptr, out + i * dim);
    }
}

inline void read_run_by_one(const Run& run, uint64_t word, const int8_t* codebook, int32_t dim, const int8_t** tokens) {
    for (int s = 0; s < kRun; ++s)
        tokens[s] = codebook + run.start[s] + static_cast<int64_t>((word >> run.shift[s]) & run.mask[s]) * dim;
}

inline int find_key_by_one(const Index& index, uint64_t first, int count, uint32_t key) {
    const uint8_t* keys = index.data + index.keys_at;
    const uint32_t bits = index.key_bits, mask = (1u << bits) - 1;
    uint64_t position = first * bits;
    int found = -1;
    for (int i = 0; i < count; ++i, position += bits) {
        const uint32_t stored = (load_32(keys + (position >> 3)) >> (position & 7)) & mask;
        found = stored == key ? i : found;
    }
    return found;
}

}  // namespace
}  // namespace memrec
