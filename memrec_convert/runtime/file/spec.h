// How a table is held, as its description says it: docs/artifact.md, section 3. Numbers alone, no tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "lookup/tables.h"

namespace memrec {

struct IndexSpec {
    IndexKind kind;
    uint64_t rows, count;
    uint32_t key_bits;

    uint32_t mixed_bits() const;
    uint64_t buckets() const { return uint64_t{1} << (mixed_bits() - key_bits); }
    uint64_t groups() const { return buckets() / 64 + 1; }
    uint64_t keys_at() const { return 4 * groups() + 2 * (buckets() + 1); }
    uint64_t bytes() const;
};

struct LevelSpec {
    bool stored;
    int32_t depth;
    Codec codec;
    IndexSpec index;
};

struct HashSpec {
    std::string group;
    int64_t dim, rows, k, blocks, k_weights;
    bool whole;  // int8 tokens, else fp32

    bool operator==(const HashSpec& other) const;
};

struct TableSpec {
    std::string name;
    int64_t rows = 0, dim = 0, padding = -1;
    Outside outside = Outside::error;
    Pooling pooling = Pooling::none;
    bool kept = false;
    Codec codec = Codec::fp32;
    std::vector<int64_t> stages, shifts;
    int32_t base_depth = 0;
    std::vector<LevelSpec> levels;
    std::optional<HashSpec> hashing;
    uint32_t hash_seed = 0;

    uint32_t bits(int32_t first_stage, int32_t last_stage) const;
    uint32_t base_bits() const { return bits(0, base_depth); }
    uint32_t level_bits(const LevelSpec& level) const { return level.stored ? 0 : bits(base_depth, level.depth); }
};

// A table of its own, or the path of the module that it is.
struct ModuleSpec {
    TableSpec table;
    std::string same_as;
};

// The description that is next; `where` names the table in errors.
ModuleSpec read_module(JsonReader& json, const std::string& where);

// Bytes of `entries` packed codes of `bits` bits each: section 5.
uint64_t packed_bytes(uint64_t entries, uint64_t bits);

}  // namespace memrec
