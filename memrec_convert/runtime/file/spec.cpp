#include "spec.h"

#include <algorithm>

namespace memrec {
namespace {

constexpr int64_t kMostRows = int64_t{1} << 48, kMostHashedRows = (int64_t{1} << 31) - 1;
constexpr int64_t kMostKeysPerBucket = 24;  // on average
constexpr int64_t kMostDim = 1 << 16;       // of this library
constexpr int64_t kLargestEntry = 127, kLargestSum = 32767;
constexpr size_t kMostListed = 258;  // stages whose entries fit a sum at all

// The fields that a description had, each read by its own branch.
class Seen {
  public:
    explicit Seen(std::string where) : where_(std::move(where)) {}
    void add(const std::string& name) { names_.push_back(name); }
    bool has(const char* name) const { return std::find(names_.begin(), names_.end(), name) != names_.end(); }

    // All `needed` fields are there, and besides them none but the `allowed`.
    void check(std::vector<std::string> needed, const std::vector<std::string>& allowed = {}) const {
        for (const std::string& name : needed)
            if (!has(name.c_str())) damaged(where_ + ": its description lacks the field '" + name + "'");
        needed.insert(needed.end(), allowed.begin(), allowed.end());
        for (const std::string& name : names_)
            if (std::find(needed.begin(), needed.end(), name) == needed.end())
                damaged(where_ + ": its description has the field " + quote(name) + ", which does not belong there");
    }

  private:
    std::string where_;
    std::vector<std::string> names_;
};

template <class T>
struct Named {
    const char* name;
    T value;
};

constexpr Codec trellis(int bits) { return static_cast<Codec>(static_cast<int>(Codec::trellis1) + bits - 1); }

constexpr Named<Codec> kCodecs[] = {
    {"fp32", Codec::fp32},    {"bf16", Codec::bf16},    {"fp16", Codec::fp16},    {"int8", Codec::int8},    {"trellis1", trellis(1)},
    {"trellis2", trellis(2)}, {"trellis3", trellis(3)}, {"trellis4", trellis(4)}, {"trellis5", trellis(5)}, {"trellis6", trellis(6)}};
constexpr Named<Outside> kOutside[] = {
    {"error", Outside::error}, {"clip", Outside::clip}, {"hash", Outside::hash}, {"zero", Outside::zero}};
constexpr Named<Pooling> kPooling[] = {{"sum", Pooling::sum}, {"mean", Pooling::mean}};
constexpr Named<IndexKind> kIndexKinds[] = {{"bitmap", IndexKind::bitmap}, {"keys", IndexKind::keys}};
constexpr Named<bool> kForms[] = {{"kept", true}, {"replaced", false}};
constexpr Named<bool> kLevelKinds[] = {{"rows", true}, {"codes", false}};
constexpr Named<bool> kTokenCodecs[] = {{"int8", true}, {"fp32", false}};

template <class T, size_t n>
T read_name(JsonReader& json, const Named<T> (&names)[n], const std::string& where) {
    const std::string found = json.string();
    for (const Named<T>& one : names)
        if (found == one.name) return one.value;
    damaged(where + ": its description says " + quote(found) + ", which is unknown there");
}

std::vector<int64_t> read_numbers(JsonReader& json, int64_t least, int64_t most) {
    std::vector<int64_t> numbers;
    json.array([&](size_t number) {
        if (number >= kMostListed) json.fail("a list that is too long");
        numbers.push_back(json.whole(least, most));
    });
    return numbers;
}

HashSpec read_hashing(JsonReader& json, const std::string& where) {
    HashSpec hashing{};
    Seen seen(where);
    json.object([&](const std::string& key) {
        seen.add(key);
        if (key == "group") hashing.group = json.string();
        else if (key == "dim") hashing.dim = json.whole(1, kMostRows);
        else if (key == "rows") hashing.rows = json.whole(1, kMostHashedRows);
        else if (key == "k") hashing.k = json.whole(1, kMostTokens);
        else if (key == "blocks") hashing.blocks = json.whole(0, kMostHashedRows);
        else if (key == "k_weights") hashing.k_weights = json.whole(0, kWeightLanes);
        else if (key == "token_codec") hashing.whole = read_name(json, kTokenCodecs, where);
        else json.skip();
    });
    seen.check({"group", "dim", "rows", "k", "blocks", "k_weights", "token_codec"});
    return hashing;
}

LevelSpec read_level(JsonReader& json, const std::string& where) {
    LevelSpec level{};
    Seen seen(where);
    json.object([&](const std::string& key) {
        seen.add(key);
        if (key == "kind") level.stored = read_name(json, kLevelKinds, where);
        else if (key == "count") level.index.count = static_cast<uint64_t>(json.whole(1, kMostRows));
        else if (key == "index") level.index.kind = read_name(json, kIndexKinds, where);
        else if (key == "key_bits") level.index.key_bits = static_cast<uint32_t>(json.whole(4, 16));
        else if (key == "depth") level.depth = static_cast<int32_t>(json.whole(1, static_cast<int64_t>(kMostListed)));
        else if (key == "codec") level.codec = read_name(json, kCodecs, where);
        else json.skip();
    });
    std::vector<std::string> needed = {"kind", "count", "index", level.stored ? "codec" : "depth"};
    if (level.index.kind == IndexKind::keys) needed.emplace_back("key_bits");
    seen.check(needed);
    return level;
}

void read_levels(JsonReader& json, TableSpec& table, const std::string& where) {
    json.array([&](size_t number) {
        if (number >= kMostLevels) damaged(where + ": it has more than two levels");
        table.levels.push_back(read_level(json, where + " > level " + std::to_string(number)));
    });
}

bool read_plain(JsonReader& json, const std::string& key, TableSpec& table, const std::string& where) {
    if (key == "name") table.name = json.string();
    else if (key == "rows") table.rows = json.whole(1, kMostRows);
    else if (key == "dim") table.dim = json.whole(1, kMostRows);
    else if (key == "oov") table.outside = read_name(json, kOutside, where);
    else if (key == "mode") table.pooling = read_name(json, kPooling, where);
    else if (key == "include_last_offset") json.boolean();
    else if (key == "padding_idx") table.padding = json.whole(0, kMostRows);
    else if (key == "form") table.kept = read_name(json, kForms, where);
    else if (key == "codec") table.codec = read_name(json, kCodecs, where);
    else return false;
    return true;
}

void check_stages(const TableSpec& table, const std::string& where) {
    for (int64_t size : table.stages)
        if (size & (size - 1)) damaged(where + ": the size of a codebook is no power of two");
    const bool rise = std::is_sorted(table.shifts.begin(), table.shifts.end());
    if (table.shifts.size() != table.stages.size() || !rise) damaged(where + ": its shifts fall or do not go with its stages");
    int64_t worst = 0, before = 0;
    for (int64_t shift : table.shifts) {
        worst = (worst << (shift - before)) + kLargestEntry;
        before = shift;
        if (worst > kLargestSum) damaged(where + ": sums of its tokens can leave 16 bits");
    }
    if (table.stages.size() > static_cast<size_t>(kMostStages))
        throw Failure(MEMREC_UNSUPPORTED, where + " has more stages than this library reads, which is 32.");
}

void check_level(const TableSpec& table, LevelSpec& level, const std::string& where) {
    IndexSpec& index = level.index;
    index.rows = static_cast<uint64_t>(table.rows);
    if (index.count > index.rows) damaged(where + ": a level has more ids than the table");
    if (index.kind == IndexKind::keys && index.key_bits > index.mixed_bits())
        damaged(where + ": the keys of a level are wider than its ids");
    if (index.kind == IndexKind::keys && index.count > kMostKeysPerBucket * index.buckets())
        damaged(where + ": a level has more keys than its buckets hold");
    if (!level.stored && (level.depth <= table.base_depth || level.depth > static_cast<int32_t>(table.stages.size())))
        damaged(where + ": a level's depth is not between the base's and that of all stages");
}

void check_hashing(const TableSpec& table, const std::string& where) {
    const HashSpec& hashing = *table.hashing;
    if (hashing.dim != table.dim) damaged(where + ": its hashed tokens are of another dim");
    if (table.base_depth) damaged(where + ": it has hashed tokens and a base of codes");
    if ((hashing.k_weights > 0) != (hashing.blocks > 0)) damaged(where + ": the weights of its hashed tokens are contradictory");
}

void check(TableSpec& table, const Seen& seen, const std::string& where) {
    const std::vector<std::string> free = {"mode", "include_last_offset", "padding_idx", "hashing", "hash_seed"};
    if (table.kept)
        seen.check({"name", "oov", "rows", "dim", "form", "codec"}, {free.begin(), free.begin() + 3});
    else
        seen.check({"name", "oov", "rows", "dim", "form", "stages", "shifts", "base_depth", "levels"}, free);
    if (seen.has("hashing") != seen.has("hash_seed")) damaged(where + ": it has a hash and no seed, or a seed and no hash");
    if (table.padding >= table.rows) damaged(where + ": its padding_idx is no row");
    if (table.base_depth > static_cast<int32_t>(table.stages.size())) damaged(where + ": its base is deeper than its stages");
    check_stages(table, where);
    for (LevelSpec& level : table.levels) check_level(table, level, where);
    if (table.hashing) check_hashing(table, where);
    if (table.dim > kMostDim) throw Failure(MEMREC_UNSUPPORTED, where + " is wider than this library reads, which is 65536.");
}

}  // namespace

uint32_t IndexSpec::mixed_bits() const {
    uint32_t bits = 4;
    while ((rows - 1) >> bits) ++bits;
    return bits;
}

uint64_t IndexSpec::bytes() const {
    if (kind == IndexKind::bitmap) return (rows + kBitsPerLine - 1) / kBitsPerLine * kLineBytes;
    return keys_at() + packed_bytes(count, key_bits);
}

bool HashSpec::operator==(const HashSpec& other) const {
    return group == other.group && dim == other.dim && rows == other.rows && k == other.k && blocks == other.blocks &&
           k_weights == other.k_weights && whole == other.whole;
}

uint32_t TableSpec::bits(int32_t first_stage, int32_t last_stage) const {
    uint32_t bits = 0;
    for (int32_t s = first_stage; s < last_stage; ++s)
        for (int64_t size = stages[static_cast<size_t>(s)]; size > 1; size /= 2) ++bits;
    return bits;
}

uint64_t packed_bytes(uint64_t entries, uint64_t bits) { return entries > 0 && bits > 0 ? (entries * bits + 7) / 8 + 8 : 0; }

ModuleSpec read_module(JsonReader& json, const std::string& where) {
    ModuleSpec module;
    TableSpec& table = module.table;
    Seen seen(where);
    json.object([&](const std::string& key) {
        seen.add(key);
        if (read_plain(json, key, table, where)) return;
        if (key == "same_as") module.same_as = json.string();
        else if (key == "stages") table.stages = read_numbers(json, 2, 256);
        else if (key == "shifts") table.shifts = read_numbers(json, 0, 7);
        else if (key == "base_depth") table.base_depth = static_cast<int32_t>(json.whole(0, static_cast<int64_t>(kMostListed)));
        else if (key == "levels") read_levels(json, table, where);
        else if (key == "hashing") table.hashing = read_hashing(json, where);
        else if (key == "hash_seed") table.hash_seed = static_cast<uint32_t>(json.whole(0, (int64_t{1} << 32) - 1));
        else json.skip();
    });
    if (seen.has("same_as"))
        seen.check({"same_as"});
    else
        check(table, seen, where);
    return module;
}

}  // namespace memrec
