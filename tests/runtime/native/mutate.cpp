// Opens, verifies and looks up in artifacts that were changed in every way that is easy to think of: bytes of the file, values
// of the metadata, and bytes of tensors, the latter two with all digests made to fit. Built with sanitizers, any read outside
// ends it; without them it counts.
//
//     mutate CASES FILE...    prints "CASES cases, R refused, A accepted" and what was refused by code
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/blake2b.h"
#include "core/json.h"
#include "memrec.h"

namespace {

using Bytes = std::string;

// splitmix64: the same numbers everywhere.
struct Draw {
    uint64_t state;
    uint64_t next() {
        uint64_t z = (state += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }
    size_t below(size_t most) { return most ? static_cast<size_t>(next() % most) : 0; }
};

constexpr size_t kDigits = 32;

// A file in its parts; header entries stay text.
struct Parts {
    Bytes metadata, entries, body;
};

size_t header_length(const Bytes& file) {
    uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = (length << 8) | static_cast<uint8_t>(file[static_cast<size_t>(i)]);
    return static_cast<size_t>(length);
}

Parts split(const Bytes& file) {
    const size_t length = header_length(file);
    const Bytes start = "{\"__metadata__\":{\"memrec_convert\":";
    memrec::JsonReader json(std::string_view(file).substr(8 + start.size(), length - start.size()), "header");
    Parts parts;
    parts.metadata = json.string();
    parts.entries = file.substr(8 + start.size() + json.place(), length - start.size() - json.place());
    parts.body = file.substr(8 + length);
    return parts;
}

Bytes join(const Parts& parts) {
    Bytes header = "{\"__metadata__\":{\"memrec_convert\":\"";
    for (char letter : parts.metadata) {
        if (letter == '"' || letter == '\\') header += '\\';
        header += letter;
    }
    header += "\"" + parts.entries;
    while (header.size() % 8) header += ' ';
    Bytes file;
    for (int i = 0; i < 8; ++i) file += static_cast<char>((header.size() >> (8 * i)) & 255);
    return file + header + parts.body;
}

void mend_self(Bytes& text) {
    const size_t at = text.rfind("\"self\":\"");
    if (at == text.npos || at + 8 + kDigits > text.size()) return;
    text.replace(at + 8, kDigits, kDigits, '0');
    memrec::Blake2b digest;
    digest.add(text.data(), text.size());
    text.replace(at + 8, kDigits, digest.finish());
}

// Replaces a number, a word or a name of the metadata by one from elsewhere or by an odd one.
void change_value(Draw& draw, Bytes& text) {
    static const char* const odd[] = {"0", "1", "-1", "2", "7", "8", "255", "256", "65536", "2147483648", "281474976710656",
                                      "9223372036854775807", "1e5", "true", "null", "[]", "{}", "\"rows\"", "\"keys\"",
                                      "\"bitmap\"", "\"codes\"", "\"int8\"", "\"fp32\"", "\"hash\"", "\"mean\"", "\"\""};
    std::vector<std::pair<size_t, size_t>> values;
    for (size_t at = text.find("\"modules\""); at < text.size() && at != text.npos; ++at) {
        if (text[at] != ':' && text[at] != '[' && text[at] != ',') continue;
        size_t stop = at + 1;
        while (stop < text.size() && !std::strchr(",]}:", text[stop])) ++stop;
        if (stop > at + 1) values.emplace_back(at + 1, stop - at - 1);
    }
    if (values.empty()) return;
    const auto [at, length] = values[draw.below(values.size())];
    const auto other = values[draw.below(values.size())];
    text.replace(at, length, draw.below(3) ? odd[draw.below(std::size(odd))] : text.substr(other.first, other.second));
}

void change_bytes(Draw& draw, Bytes& bytes, size_t first, size_t last) {
    if (first >= last) return;
    const size_t at = first + draw.below(last - first);
    switch (draw.below(3)) {
        case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << draw.below(8))); break;
        case 1: bytes[at] = static_cast<char>(draw.next()); break;
        default: bytes[at] = static_cast<char>(draw.below(2) ? 0xFF : 0); break;
    }
}

// A tensor of the body as the header has it.
struct Entry {
    Bytes name, type, shape;
    size_t start, stop;
};

std::vector<Entry> read_entries(const Bytes& text) {
    std::vector<Entry> entries;
    for (size_t at = text.find("\":{\"dtype\":\""); at != text.npos; at = text.find("\":{\"dtype\":\"", at + 1)) {
        Entry entry;
        const size_t name = text.rfind('"', at - 1) + 1, type = at + 12, shape = text.find('[', at), end = text.find(']', shape);
        entry.name = text.substr(name, at - name);
        entry.type = text.substr(type, text.find('"', type) - type);
        entry.shape = text.substr(shape, end + 1 - shape);
        std::sscanf(text.c_str() + text.find('[', end) + 1, "%zu,%zu", &entry.start, &entry.stop);
        entries.push_back(entry);
    }
    return entries;
}

// Changes bytes of a tensor, its digest following.
void change_tensor(Draw& draw, Parts& parts) {
    static const std::map<Bytes, const char*> types = {{"F32", "float32"}, {"F16", "float16"}, {"BF16", "bfloat16"},
                                                       {"I8", "int8"}, {"U8", "uint8"}, {"I64", "int64"}, {"BOOL", "bool"}};
    const std::vector<Entry> entries = read_entries(parts.entries);
    const Entry& entry = entries[draw.below(entries.size())];
    for (size_t times = 1 + draw.below(4); times > 0; --times) change_bytes(draw, parts.body, entry.start, entry.stop);
    Bytes line = Bytes("torch.") + types.at(entry.type) + " ";
    for (char letter : entry.shape) line += letter == ',' ? Bytes(", ") : Bytes(1, letter);
    line += "\n";
    memrec::Blake2b digest;
    digest.add(line.data(), line.size());
    digest.add(parts.body.data() + entry.start, entry.stop - entry.start);
    const Bytes key = "\"" + entry.name + "\":\"";
    const size_t digests = parts.metadata.find("\"digests\":{"), at = parts.metadata.find(key, digests);
    if (at != parts.metadata.npos) parts.metadata.replace(at + key.size(), kDigits, digest.finish());
}

Bytes change_file(Draw& draw, const Bytes& file, int kind) {
    if (kind >= 2) {
        Parts parts = split(file);
        if (kind == 2 || draw.below(4) == 0)
            for (size_t times = 1 + draw.below(3); times > 0; --times) change_value(draw, parts.metadata);
        if (kind == 3) change_tensor(draw, parts);
        mend_self(parts.metadata);
        return join(parts);
    }
    Bytes changed = file;
    const size_t header = draw.below(2) ? 8 + header_length(file) : file.size();
    for (size_t times = 1 + draw.below(4); times > 0; --times) change_bytes(draw, changed, 0, header);
    if (kind == 1) {
        const size_t at = draw.below(changed.size()), count = draw.below(40);
        if (draw.below(2))
            changed.erase(at, count);
        else
            changed.insert(at, changed.substr(draw.below(changed.size()), count));
    }
    return changed;
}

// Some lookups in each table, in every way.
void look_up(Draw& draw, const memrec_artifact* artifact, memrec_pool* pool) {
    for (int32_t number = 0; number < memrec_count_tables(artifact); ++number) {
        memrec_table table;
        if (memrec_get_table(artifact, number, &table, nullptr) != MEMREC_OK) std::abort();
        const auto count = static_cast<size_t>(draw.below(2) ? 70 : 9);
        std::vector<int64_t> ids(count), offsets(count);
        for (size_t i = 0; i < count; ++i) {
            ids[i] = static_cast<int64_t>(draw.next()) % (draw.below(8) ? table.rows : INT64_MAX);
            offsets[i] = static_cast<int64_t>(i / 3 * 3);
        }
        std::vector<float> out(count * static_cast<size_t>(table.dim)), weights(count, 0.5f);
        memrec_lookup lookup{};
        lookup.table = number;
        lookup.outside = static_cast<memrec_outside>(static_cast<int>(draw.below(4)));
        lookup.id_bits = 64;
        lookup.ids = ids.data();
        lookup.id_count = static_cast<int64_t>(count);
        lookup.out = out.data();
        if (table.pooling != MEMREC_NO_POOLING && draw.below(2)) {
            lookup.offset_bits = 64;
            lookup.offsets = offsets.data();
            if (table.pooling == MEMREC_SUM) lookup.weights = weights.data();
        }
        memrec_error error;
        const memrec_status status = memrec_look_up(artifact, &lookup, 1, static_cast<int64_t>(count), pool, &error);
        if (status != MEMREC_OK && status != MEMREC_BAD_ID) std::abort();
    }
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 3) return 2;
    const long cases = std::atol(arguments[1]);
    std::vector<Bytes> files;
    for (int i = 2; i < count; ++i) {
        std::ifstream stream(arguments[i], std::ios::binary);
        files.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    }
    memrec_pool* pool = nullptr;
    if (memrec_make_pool(2, &pool, nullptr) != MEMREC_OK) return 2;
    std::map<int, long> by_status;
    long accepted = 0, unchanged = 0;
    for (long number = 0; number < cases; ++number) {
        Draw draw{static_cast<uint64_t>(number)};
        const Bytes& original = files[draw.below(files.size())];
        const Bytes changed = change_file(draw, original, static_cast<int>(number % 4));
        unchanged += changed == original;
        // In memory of its own, to the byte: what lies behind it is nobody's.
        const std::unique_ptr<char[]> exact(new char[changed.size()]);
        std::memcpy(exact.get(), changed.data(), changed.size());
        std::vector<const char*> sets = {nullptr};
        for (int32_t i = 0; memrec_instruction_set(i); ++i) sets.push_back(memrec_instruction_set(i));
        const memrec_options options = {draw.below(2) ? uint32_t{MEMREC_IN_PLACE} : 0u, sets[draw.below(sets.size())]};
        memrec_artifact* artifact = nullptr;
        memrec_error error;
        memrec_status status = memrec_open_buffer(exact.get(), changed.size(), &options, &artifact, &error);
        if (status == MEMREC_OK) {
            look_up(draw, artifact, pool);
            status = memrec_verify(artifact, &error);
        }
        memrec_close(artifact);
        accepted += status == MEMREC_OK;
        ++by_status[status];
        if (status != MEMREC_OK && (error.status != status || !std::strchr(error.text, '.'))) return 3;
        if (status == MEMREC_INTERNAL) {
            std::printf("%ld: %s\n", number, error.text);
            return 3;
        }
    }
    memrec_free_pool(pool);
    std::printf("%ld cases, %ld refused, %ld accepted, %ld unchanged\n", cases, cases - accepted, accepted, unchanged);
    for (const auto& [status, times] : by_status) std::printf("status %d: %ld\n", status, times);
    return 0;
}
