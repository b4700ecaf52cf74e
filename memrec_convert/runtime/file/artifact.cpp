#include "artifact.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <utility>

#include "lookup/keys.h"
#include "metadata.h"

namespace memrec {
namespace {

constexpr uint64_t kLeastLineRoom = 512 << 10, kLineRoomShare = 10;  // lines of keys may take so much, or this part of the tables

uint64_t whole_lines(uint64_t bytes) { return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes; }

std::string show(const char* type, const std::vector<uint64_t>& shape) {
    std::string text = std::string(type) + " [";
    for (size_t i = 0; i < shape.size() && i < 4; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (shape.size() > 4 ? ", ...]" : "]");
}

const char* type_of(Codec codec) {
    static constexpr const char* names[] = {"F32", "BF16", "F16", "I8"};
    return trellis_bits(codec) ? "U8" : names[static_cast<int>(codec)];
}

bool both_digits(char a, char b) {
    return std::isdigit(static_cast<unsigned char>(a)) && std::isdigit(static_cast<unsigned char>(b));
}

// Whether one path comes before another, numbers in them taken as numbers.
bool comes_before(const std::string& one, const std::string& other) {
    size_t i = 0, j = 0;
    const auto number_at = [](const std::string& text, size_t& at) {
        const size_t start = at;
        while (at < text.size() && both_digits(text[at], '0')) ++at;
        const size_t first = std::min(text.find_first_not_of('0', start), at);
        return text.substr(first, at - first);
    };
    while (i < one.size() && j < other.size()) {
        if (both_digits(one[i], other[j])) {
            const std::string a = number_at(one, i), b = number_at(other, j);
            if (a != b) return a.size() != b.size() ? a.size() < b.size() : a < b;
        } else if (one[i] != other[j]) {
            return static_cast<uint8_t>(one[i]) < static_cast<uint8_t>(other[j]);
        } else {
            ++i, ++j;
        }
    }
    return one.size() - i != other.size() - j ? one.size() - i < other.size() - j : one < other;
}

}  // namespace

Artifact::Artifact(std::unique_ptr<Memory> file, const uint8_t* data, uint64_t bytes, bool in_place, const Kernel* kernel)
    : file_(std::move(file)), kernel_(kernel), container_(read_container(data, bytes)) {
    Metadata metadata = read_metadata(container_.metadata);
    check_names(metadata.digests);
    aliases_ = std::move(metadata.aliases);
    digests_ = std::move(metadata.digests);
    for (const auto& [name, target] : aliases_)
        if (container_.tensors.count(name) || !container_.tensors.count(target))
            damaged("the alias " + quote(name) + " is a tensor itself, or stands for none");
    read_modules(metadata.modules);
    bind_all();
    check_groups();
    if (!in_place) copy_tables();
    for (Table& table : store_) derived_.complete(table);
    lay_out_keys();
    list_tables();
}

void Artifact::check_names(const std::map<std::string, std::string>& digests) const {
    const bool as_many = digests.size() == container_.tensors.size();
    for (const auto& [name, tensor] : container_.tensors)
        if (!digests.count(name)) damaged("the tensor " + quote(name) + " is unknown to the metadata");
    if (!as_many) damaged("the metadata has digests of tensors that are missing");
}

void Artifact::read_modules(std::string_view text) {
    JsonReader json(text, "the metadata");
    std::map<std::string, size_t> numbers;
    json.object([&](const std::string& path) {
        Module module{path, read_module(json, path), {}, 0};
        if (module.spec.same_as.empty()) {
            numbers[path] = module.table = store_.size();
            store_.emplace_back();
        }
        modules_.push_back(std::move(module));
    });
    for (Module& module : modules_) {
        if (module.spec.same_as.empty()) continue;
        const auto found = numbers.find(module.spec.same_as);
        if (found == numbers.end()) damaged(module.path + " is the same as " + quote(module.spec.same_as) + ", which is no table");
        module.table = found->second;
    }
}

// Tables whose groups have one name have one group.
void Artifact::check_groups() const {
    std::map<std::string, const Module*> first;
    const auto tensor_of = [&](const Module& module, const char* name) {
        const std::string own = module.path + ".group." + name;
        const auto alias = aliases_.find(own);
        return alias == aliases_.end() ? own : alias->second;
    };
    for (const Module& module : modules_) {
        if (!module.spec.table.hashing) continue;
        const HashSpec& hashing = *module.spec.table.hashing;
        const Module& other = *first.emplace(hashing.group, &module).first->second;
        bool same = *other.spec.table.hashing == hashing;
        for (const char* name : {"tokens", "scale", "weights"})
            same = same && (tensor_of(module, name) == tensor_of(other, name) || (!hashing.k_weights && *name == 'w'));
        if (!same) damaged(module.path + " and " + other.path + " have different groups of one name");
    }
}

// The tensor of a module under a name, which has to be of this type and shape.
Tensor* Artifact::find(const Module& module, const std::string& name, const char* type, std::vector<uint64_t> shape) {
    const std::string own = module.path + "." + name;
    const auto alias = aliases_.find(own);
    const auto found = container_.tensors.find(alias == aliases_.end() ? own : alias->second);
    const bool there = found != container_.tensors.end();
    if (there && found->second.type->name == std::string(type) && found->second.shape == shape) return &found->second;
    damaged(own + ": found " + (there ? show(found->second.type->name, found->second.shape) : "none") + ", expected " +
            show(type, shape));
}

Rows Artifact::bind_rows(Module& module, const std::string& prefix, Codec codec, uint64_t rows) {
    Rows bound{codec, nullptr, nullptr};
    const int64_t dim = module.spec.table.dim;
    const auto width = static_cast<uint64_t>(trellis_bits(codec) ? row_bytes(codec, dim) : dim);
    module.tensors.push_back(find(module, prefix + "rows", type_of(codec), {rows, width}));
    bound.rows = module.tensors.back()->data;
    if (codec < Codec::int8) return bound;
    module.tensors.push_back(find(module, prefix + "scale", codec == Codec::int8 ? "F16" : "U8", {rows}));
    bound.scale = module.tensors.back()->data;
    return bound;
}

void Artifact::bind_level(Module& module, Table& table, int32_t number) {
    const TableSpec& spec = module.spec.table;
    const LevelSpec& plain = spec.levels[static_cast<size_t>(number)];
    const IndexSpec& index = plain.index;
    const std::string prefix = "level" + std::to_string(number) + "_";
    Level& level = table.level[number];
    module.tensors.push_back(find(module, prefix + "index", "U8", {index.bytes()}));
    level.index.kind = index.kind;
    level.index.data = module.tensors.back()->data;
    level.index.bytes = static_cast<int64_t>(index.bytes());
    level.index.count = index.count;
    level.index.key_bits = index.key_bits;
    level.index.mixed_bits = index.mixed_bits();
    if (index.kind == IndexKind::keys) {
        level.index.starts_at = static_cast<int64_t>(4 * index.groups());
        level.index.keys_at = static_cast<int64_t>(index.keys_at());
    }
    level.stored = plain.stored;
    if (plain.stored) {
        level.rows = bind_rows(module, prefix, plain.codec, index.count);
        return;
    }
    level.depth = plain.depth;
    level.entry_bits = spec.level_bits(plain);
    module.tensors.push_back(find(module, prefix + "codes", "U8", {packed_bytes(index.count, level.entry_bits)}));
    level.codes = module.tensors.back()->data;
}

void Artifact::bind_hashing(Module& module, Table& table) {
    const HashSpec& plain = *module.spec.table.hashing;
    const auto rows = static_cast<uint64_t>(plain.rows), blocks = static_cast<uint64_t>(plain.blocks);
    Hashing& hashing = table.hashing;
    const char* type = plain.whole ? "I8" : "F32";
    module.tensors.push_back(find(module, "group.tokens", type, {rows, static_cast<uint64_t>(plain.dim)}));
    hashing.tokens = module.tensors.back()->data;
    hashing.whole = plain.whole;
    module.tensors.push_back(find(module, "group.scale", "F32", {1}));
    hashing.scale = reinterpret_cast<const float*>(module.tensors.back()->data);
    if (plain.k_weights) {
        module.tensors.push_back(find(module, "group.weights", "F16", {blocks * kWeightLanes}));
        hashing.weights = reinterpret_cast<const uint16_t*>(module.tensors.back()->data);
    }
    hashing.rows = static_cast<uint32_t>(rows);
    hashing.blocks = static_cast<uint32_t>(blocks);
    hashing.seed = module.spec.table.hash_seed;
    hashing.k = static_cast<int32_t>(plain.k);
    hashing.k_weights = static_cast<int32_t>(plain.k_weights);
}

void Artifact::bind(Module& module, Table& table) {
    const TableSpec& spec = module.spec.table;
    const auto rows = static_cast<uint64_t>(spec.rows), dim = static_cast<uint64_t>(spec.dim);
    table = Table{};
    table.rows = rows;
    table.dim = static_cast<int32_t>(dim);
    table.padding = spec.padding;
    table.outside = spec.outside;
    table.pooling = spec.pooling;
    table.kept = spec.kept;
    if (spec.kept) {
        table.kept_rows = bind_rows(module, "", spec.codec, rows);
        return;
    }
    module.tensors.push_back(find(module, "frame", "F32", {1 + dim}));
    table.frame = reinterpret_cast<const float*>(module.tensors.back()->data);
    int32_t entries = 0;
    for (size_t s = 0; s < spec.stages.size(); ++s) {
        const auto number = static_cast<int32_t>(s);
        table.stage[s] = {spec.bits(number, number + 1), entries, static_cast<int32_t>(spec.shifts[s])};
        entries += static_cast<int32_t>(spec.stages[s]);
    }
    table.stages = static_cast<int32_t>(spec.stages.size());
    if (entries) {
        module.tensors.push_back(find(module, "codebook", "I8", {static_cast<uint64_t>(entries), dim}));
        table.codebook = reinterpret_cast<const int8_t*>(module.tensors.back()->data);
    }
    table.base_depth = spec.base_depth;
    table.base_bits = spec.base_bits();
    if (table.base_bits) {
        module.tensors.push_back(find(module, "base", "U8", {packed_bytes(rows, table.base_bits)}));
        table.base = module.tensors.back()->data;
    }
    table.levels = static_cast<int32_t>(spec.levels.size());
    for (int32_t number = 0; number < table.levels; ++number) bind_level(module, table, number);
    if (spec.hashing) bind_hashing(module, table);
}

void Artifact::bind_all() {
    for (Module& module : modules_) {
        module.tensors.clear();
        if (module.spec.same_as.empty()) bind(module, store_[module.table]);
    }
}

// Moves the tables' tensors next to each other, each from a cache line on: what is verified and looked up is the copy.
void Artifact::copy_tables() {
    std::set<Tensor*> moved;
    uint64_t bytes = 0;
    for (const Module& module : modules_)
        for (Tensor* tensor : module.tensors)
            if (moved.insert(tensor).second) bytes += whole_lines(tensor->bytes);
    copies_ = make_room(bytes);
    uint8_t* next = copies_->writable();
    moved.clear();
    for (const Module& module : modules_) {
        for (Tensor* tensor : module.tensors) {
            if (!moved.insert(tensor).second) continue;
            std::copy(tensor->data, tensor->data + tensor->bytes, next);
            tensor->data = next;
            next += whole_lines(tensor->bytes);
        }
    }
    bind_all();
}

// Lays keys out by lines, in the order of the tables, while there is room; a damaged index is read as it is.
void Artifact::lay_out_keys() {
    std::set<Tensor*> own;
    uint64_t bytes = 0, taken = 0;
    for (const Module& module : modules_)
        for (Tensor* tensor : module.tensors)
            if (own.insert(tensor).second) bytes += tensor->bytes;
    uint64_t room = std::max(kLeastLineRoom, bytes / kLineRoomShare);
    std::vector<std::pair<Index*, uint64_t>> chosen;
    for (Table& table : store_) {
        for (int l = 0; l < table.levels; ++l) {
            const uint64_t lines = count_lines(table.level[l].index);
            if (!lines || lines * kLineBytes > room - taken) continue;
            chosen.emplace_back(&table.level[l].index, lines);
            taken += lines * kLineBytes;
        }
    }
    lines_ = make_room(taken);
    auto* next = reinterpret_cast<KeyLine*>(lines_->writable());
    for (const auto& [index, count] : chosen) {
        if (build_lines(*index, next, count)) {
            index->lines = next;
            index->line_count = count;
        }
        next += count;
    }
}

void Artifact::list_tables() {
    std::map<size_t, uint64_t> bytes;
    std::map<size_t, std::string> names;
    for (const Module& module : modules_) {
        if (!module.spec.same_as.empty()) continue;
        names[module.table] = module.spec.table.name;
        for (const Tensor* tensor : module.tensors) bytes[module.table] += tensor->bytes;
    }
    for (const Module& module : modules_)
        tables_.push_back({module.path, names[module.table], &store_[module.table], bytes[module.table]});
    std::sort(tables_.begin(), tables_.end(),
              [](const NamedTable& one, const NamedTable& other) { return comes_before(one.path, other.path); });
}

}  // namespace memrec
