#include "artifact.h"
#include "core/blake2b.h"
#include "core/failure.h"
#include "lookup/keys.h"
#include "lookup/slots.h"

namespace memrec {
namespace {

std::string digest_of(const Tensor& tensor) {
    std::string line = std::string("torch.") + tensor.type->torch + " [";
    for (size_t i = 0; i < tensor.shape.size(); ++i) line += (i ? ", " : "") + std::to_string(tensor.shape[i]);
    line += "]\n";
    Blake2b digest;
    digest.add(line.data(), line.size());
    digest.add(tensor.data, static_cast<size_t>(tensor.bytes));
    return digest.finish();
}

uint32_t count_bits(uint64_t bits) {
    uint32_t count = 0;
    for (; bits; bits &= bits - 1) ++count;
    return count;
}

bool bit_of(const Index& index, uint64_t id) {
    const uint64_t bit = id % kBitsPerLine + 32;
    return (index.data[id / kBitsPerLine * kLineBytes + (bit >> 3)] >> (bit & 7)) & 1;
}

const char* check_bitmap(const Index& index, uint64_t rows) {
    const uint64_t lines = static_cast<uint64_t>(index.bytes) / kLineBytes;
    uint64_t held = 0;
    for (uint64_t line = 0; line < lines; ++line) {
        const uint8_t* data = index.data + line * kLineBytes;
        if (load_32(data) != held) return "its ranks and bits disagree";
        held += count_bits(load_64(data) >> 32);
        for (int word = 1; word < kLineBytes / 8; ++word) held += count_bits(load_64(data + 8 * word));
    }
    if (held != index.count) return "its ranks and bits disagree";
    for (uint64_t id = rows; id < lines * kBitsPerLine; ++id)
        if (bit_of(index, id)) return "it holds ids beyond the table";
    return nullptr;
}

const char* check_keys(const Index& index, uint64_t rows) {
    KeyWalk keys(index);
    while (keys.next())
        if (unmix_id(keys.mixed(), index.mixed_bits) >= rows) return "it holds ids beyond the table";
    return keys.fault();
}

// An id that two sound indices of one table both hold, or -1.
int64_t find_shared_keys(const Index& one, const Index& other) {
    KeyWalk a(one), b(other);
    bool more = a.next() && b.next();
    while (more) {
        if (a.mixed() == b.mixed()) return static_cast<int64_t>(unmix_id(a.mixed(), one.mixed_bits));
        more = a.mixed() < b.mixed() ? a.next() : b.next();
    }
    return -1;
}

int64_t find_shared(const Index& one, const Index& other) {
    if (one.kind == IndexKind::bitmap && other.kind == IndexKind::keys) return find_shared(other, one);
    if (other.kind == IndexKind::keys) return find_shared_keys(one, other);
    if (one.kind == IndexKind::keys) {
        for (KeyWalk keys(one); keys.next();)
            if (const uint64_t id = unmix_id(keys.mixed(), one.mixed_bits); bit_of(other, id)) return static_cast<int64_t>(id);
        return -1;
    }
    for (int64_t byte = 0; byte < one.bytes; ++byte) {
        const int64_t in_line = byte % kLineBytes;
        const int shared = in_line < 4 ? 0 : one.data[byte] & other.data[byte];
        if (shared) return byte / kLineBytes * kBitsPerLine + 8 * (in_line - 4) + first_bit(static_cast<uint32_t>(shared));
    }
    return -1;
}

void verify_table(const Table& table, const std::string& path) {
    for (int l = 0; l < table.levels; ++l) {
        const Index& index = table.level[l].index;
        const char* fault = index.kind == IndexKind::keys ? check_keys(index, table.rows) : check_bitmap(index, table.rows);
        if (fault) damaged(path + ": the index of level " + std::to_string(l) + " is damaged (" + fault + ")");
    }
    if (table.levels < 2) return;
    const int64_t id = find_shared(table.level[0].index, table.level[1].index);
    if (id >= 0) damaged(path + ": id " + std::to_string(id) + " is in both levels");
}

}  // namespace

void Artifact::verify() const {
    for (const auto& [name, tensor] : container_.tensors)
        if (digest_of(tensor) != digests_.at(name))
            damaged(name + ": its bytes do not match their digest: the file was damaged after it was written");
    for (const NamedTable& table : tables_) verify_table(*table.table, table.path);
}

}  // namespace memrec
