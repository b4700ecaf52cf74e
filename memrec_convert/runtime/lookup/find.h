// The steps that find what a lookup reads, each over all lookups of a piece, so that their misses are in flight
// together: ids are read and their index lines asked for; buckets found and keys asked for; places found, and codes,
// rows or hashed tokens asked for.
#pragma once

#include "slots.h"

namespace memrec {
namespace {

template <class Isa>
struct Find {
    static void read(Span& span, const Bags& bags, int64_t first, Slots& slots) {
        const Table& table = *span.table;
        const int n = span.last - span.first;
        uint64_t* ids = slots.id + span.first;
        if (bags.narrow) {
            for (int i = 0; i < n; ++i)
                ids[i] = static_cast<uint64_t>(static_cast<int64_t>(load_at<int32_t>(bags.ids, (first + i) * bags.stride)));
        } else if (bags.stride == 1) {
            std::memcpy(ids, static_cast<const char*>(bags.ids) + 8 * first, 8 * static_cast<size_t>(n));
        } else {
            for (int i = 0; i < n; ++i) ids[i] = load_at<uint64_t>(bags.ids, (first + i) * bags.stride);
        }
        uint16_t* list = slots.list[kBase] + span.first;
        MEMREC_LANES
        for (int i = 0; i < n; ++i) list[i] = static_cast<uint16_t>(span.first + i);
        span.counts[kBase] = n;
        // Where an id outside is an error, the request has none.
        if (table.padding >= 0 || (bags.outside != Outside::error && Isa::any_at_or_past(ids, n, table.rows)))
            set_apart(span, bags, first, slots);
        ask_for_lines(span, n < kShort || first == 0, slots);
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
            const bool is_zero = (outside && bags.outside == Outside::zero) ||
                                 (table.padding >= 0 && id_at(bags, first + slot - span.first) == table.padding);
            if (outside && bags.outside == Outside::hash)
                slots.id[slot] = static_cast<uint64_t>((id % rows + rows) % rows);
            else if (outside)
                slots.id[slot] = static_cast<uint64_t>(id < 0 || bags.outside == Outside::error ? 0 : rows - 1);
            (is_zero ? zeros[zero++] : list[kept++]) = static_cast<uint16_t>(slot);
        }
        span.counts[kBase] = kept;
        span.counts[kZero] = zero;
    }

    // Asks for what the ids' buckets begin with; where the table's first piece starts, also for what all its lookups read.
    // Of an index of keys the mixed ids are kept, where the first keys of the buckets will be.
    static void ask_for_lines(const Span& span, bool starts, Slots& slots) {
        const Table& table = *span.table;
        const uint64_t* ids = slots.id + span.first;
        const int n = span.last - span.first;
        if (table.kept) {
            if (n < kShort)
                for (int i = 0; i < n; ++i) prefetch_row(table.kept_rows, ids[i], table.dim);
            return;
        }
        if (starts) {
            prefetch_bytes(table.frame, 4 * (1 + static_cast<int64_t>(table.dim)));
            prefetch_bytes(table.stage, static_cast<int64_t>(sizeof(Stage)) * table.stages + 1);
        }
        for (int l = 0; l < table.levels; ++l) {
            const Index& index = table.level[l].index;
            if (starts) MEMREC_PREFETCH(table.level[l].code.runs);
            if (index.kind == IndexKind::bitmap) {
                for (int i = 0; i < n; ++i) MEMREC_PREFETCH(index.data + ids[i] / kBitsPerLine * kLineBytes);
            } else if (index.lines) {
                find_lines(index, ids, n, slots.keys[l] + span.first, slots.key[l] + span.first);
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

    static void find_lines(const Index& index, const uint64_t* ids, int n, uint64_t* lines, uint16_t* keys) {
        const uint32_t bits = index.mixed_bits;
        const uint64_t count = index.line_count;
        MEMREC_LANES
        for (int i = 0; i < n; ++i) {
            const uint64_t mixed = mix_id(ids[i], bits);
            keys[i] = static_cast<uint16_t>(mixed);
            lines[i] = (mixed * count) >> bits;
        }
        for (int i = 0; i < n; ++i) MEMREC_PREFETCH(index.lines + lines[i]);
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
            if (index.kind != IndexKind::keys || index.lines) continue;
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
            const Index& index = level.index;
            if (index.lines)
                take_members(l, span, slots, [&](int slot) MEMREC_INLINE { return find_in_line(index, l, slot, slots); });
            else if (index.kind == IndexKind::keys)
                take_members(l, span, slots, [&](int slot) MEMREC_INLINE { return find_key(index, l, slot, slots); });
            else
                take_members(l, span, slots, [&](int slot) MEMREC_INLINE { return find_bit(index, slot, slots); });
            const uint16_t* members = slots.list[1 + l] + span.first;
            const int n = span.counts[1 + l];
            if (!level.stored)
                for (int i = 0; i < n; ++i) prefetch_code(level.codes, slots.place[members[i]], level.entry_bits);
            else if (span.last - span.first < kShort)
                for (int i = 0; i < n; ++i) prefetch_row(level.rows, slots.place[members[i]], table.dim);
        }
        if (table.hashing.tokens) hash_base(span, slots);
    }

    // Moves the lookups whose place is found from the base's list to the level's. Which way a lookup goes cannot be
    // foretold, so nothing branches on it; for the same reason `find` says -1 by arithmetic, not by a choice that a
    // compiler may make a branch.
    template <class F>
    MEMREC_INLINE static void take_members(int l, Span& span, Slots& slots, F find) {
        uint16_t* list = slots.list[kBase] + span.first;
        const int n = span.counts[kBase];
        int64_t places[kSlots];
        const auto find_all = [&](auto slot_of) MEMREC_INLINE {
            for (int i = 0; i < n; ++i) {
                const int slot = slot_of(i);
                const int64_t place = find(slot);
                slots.place[slot] = static_cast<uint64_t>(place);
                places[i] = place;
            }
        };
        if (n == span.last - span.first)
            find_all([&](int i) MEMREC_INLINE { return span.first + i; });
        else
            find_all([&](int i) MEMREC_INLINE { return static_cast<int>(list[i]); });
        const int taken = Isa::split(places, list, n, slots.list[1 + l] + span.first);
        span.counts[1 + l] = taken;
        span.counts[kBase] = n - taken;
    }

    MEMREC_INLINE static int64_t find_in_line(const Index& index, int l, int slot, const Slots& slots) {
        const KeyLine& line = index.lines[slots.keys[l][slot]];
        const uint32_t held = line.held, found = Isa::match_line(line, slots.key[l][slot], held);
        if (held > kKeysPerLine && !found) return find_beside(index, slots.id[slot]);
        return static_cast<int64_t>(line.first + first_bit(found)) | -static_cast<int64_t>(found == 0);
    }

    // Of a bucket with more keys than its line has room for.
    MEMREC_APART static int64_t find_beside(const Index& index, uint64_t id) {
        const uint64_t mixed = mix_id(id, index.mixed_bits), bucket = mixed >> index.key_bits;
        const uint64_t start = bucket_start(index, bucket), stop = bucket_start(index, bucket + 1);
        const auto key = static_cast<uint32_t>(mixed & ((1ull << index.key_bits) - 1));
        const int at = stop > start ? Isa::find_key(index, start, static_cast<int>(stop - start), key) : -1;
        return at < 0 ? -1 : static_cast<int64_t>(start) + at;
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

    // Hashes the ids that no level has and asks for their tokens and weights.
    static void hash_base(const Span& span, Slots& slots) {
        const Hashing& hashing = span.table->hashing;
        const uint16_t* list = slots.list[kBase] + span.first;
        const int n = span.counts[kBase];
        uint64_t ids[kSlots];
        uint64_t *h1 = slots.h1 + span.first, *h2 = slots.h2 + span.first;
        for (int i = 0; i < n; ++i) ids[i] = slots.id[list[i]];
        MEMREC_LANES
        for (int i = 0; i < n; ++i) {
            const Hash hash = hash_id(ids[i], hashing.seed);
            h1[i] = hash.h1;
            h2[i] = hash.h2;
        }
        const int64_t bytes = static_cast<int64_t>(span.table->dim) * (hashing.whole ? 1 : 4);
        const auto* tokens = static_cast<const char*>(hashing.tokens);
        const int64_t last = within_lines(tokens, bytes) ? bytes - kLineBytes : bytes - 1;  // of a token's lines
        for (int i = 0; i < n; ++i) {
            const Hash hash = {h1[i], h2[i]};
            if (hashing.k_weights) MEMREC_PREFETCH(hashing.weights + weight_block(hash, hashing.blocks) * kWeightLanes);
            for (int j = 0; j < hashing.k; ++j) {
                const char* token = tokens + static_cast<int64_t>(token_number(hash, j, hashing.rows)) * bytes;
                MEMREC_PREFETCH(token);
                for (int64_t at = kLineBytes; at <= last; at += kLineBytes) MEMREC_PREFETCH(token + at);
                if (last == bytes - 1) MEMREC_PREFETCH(token + last);
            }
        }
    }

    // Whether rows of so many bytes each lie on no more lines than they must.
    static bool within_lines(const char* rows, int64_t bytes) {
        const bool whole = bytes % kLineBytes == 0 || kLineBytes % bytes == 0;
        return whole && reinterpret_cast<uintptr_t>(rows) % kLineBytes == 0;
    }
};

template <class Isa>
bool any_outside(const Bags& bags, uint64_t rows) {
    if (!bags.narrow && bags.stride == 1) return Isa::any_at_or_past(static_cast<const uint64_t*>(bags.ids), bags.count, rows);
    bool outside = false;
    for (int64_t i = 0; i < bags.count; ++i) outside |= static_cast<uint64_t>(id_at(bags, i)) >= rows;
    return outside;
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

// Lookups with a place go to `members`, the others to `rest`, which may be the list itself or begin before it; each in
// order. Returns how many have a place.
inline int split_by_one(const int64_t* places, const uint16_t* list, int n, uint16_t* members, uint16_t* rest) {
    int kept = 0, taken = 0;
    for (int i = 0; i < n; ++i) {
        const uint16_t slot = list[i];
        members[taken] = slot;
        rest[kept] = slot;
        taken += places[i] >= 0;
        kept += places[i] < 0;
    }
    return taken;
}

inline uint32_t match_line_by_one(const KeyLine& line, uint16_t key, uint32_t held) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < kKeysPerLine; ++i) found |= static_cast<uint32_t>(line.keys[i] == key && i < held) << i;
    return found;
}

}  // namespace
}  // namespace memrec
