#include "container.h"

#include <cstring>
#include <limits>

#include "core/json.h"

namespace memrec {
namespace {

constexpr uint64_t kMostHeaderBytes = 10'000'000, kLengthBytes = 8;
constexpr const char* kMetadataKey = "memrec_convert";
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

constexpr Type kTypes[] = {{"F64", "float64", 8}, {"I64", "int64", 8}, {"F32", "float32", 4}, {"I32", "int32", 4},
                           {"F16", "float16", 2}, {"BF16", "bfloat16", 2}, {"I16", "int16", 2}, {"I8", "int8", 1},
                           {"U8", "uint8", 1}, {"BOOL", "bool", 1}};

std::string_view read_header_text(const uint8_t* data, uint64_t bytes) {
    uint64_t length = 0;
    for (uint64_t i = kLengthBytes; i-- > 0;) length = (length << 8) | (bytes < kLengthBytes ? 0 : data[i]);
    if (bytes < kLengthBytes || length > bytes - kLengthBytes) {
        const std::string found = std::to_string(bytes) + " bytes, fewer than its header takes";
        throw Failure(MEMREC_NOT_AN_ARTIFACT, "it is no safetensors file, or its end is missing: it has " + found + ".");
    }
    if (length > kMostHeaderBytes) damaged("its header takes " + std::to_string(length) + " bytes, and 10,000,000 are the most");
    return {reinterpret_cast<const char*>(data) + kLengthBytes, static_cast<size_t>(length)};
}

// The text without the spaces that fill it up; they are as few as bring it to a multiple of 8.
std::string_view drop_padding(std::string_view text) {
    const size_t length = text.size();
    while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
    if (length % kLengthBytes || length - text.size() >= kLengthBytes) damaged("its header is not filled up to a multiple of 8");
    return text;
}

std::vector<uint64_t> read_shape(JsonReader& json, uint64_t& bytes) {
    std::vector<uint64_t> shape;
    json.array([&](size_t) {
        const auto length = static_cast<uint64_t>(json.whole(0, kMost));
        if (length && bytes > static_cast<uint64_t>(kMost) / length) json.fail("a shape beyond all memory");
        bytes *= length;
        shape.push_back(length);
    });
    return shape;
}

void expect_key(JsonReader& json, const char* key) {
    if (json.string() != key) json.fail("another key than '" + std::string(key) + "' in its place");
    json.expect(':');
}

// One entry, whose bytes begin `start` behind the header.
Tensor read_tensor(JsonReader& json, const uint8_t* body, uint64_t start) {
    Tensor tensor{};
    json.expect('{');
    expect_key(json, "dtype");
    tensor.type = find_type(json.string());
    if (!tensor.type) json.fail("an unknown type");
    json.expect(',');
    expect_key(json, "shape");
    tensor.bytes = tensor.type->bytes;
    tensor.shape = read_shape(json, tensor.bytes);
    json.expect(',');
    expect_key(json, "data_offsets");
    size_t offsets = 0;
    json.array([&](size_t number) {
        const auto offset = static_cast<uint64_t>(json.whole(0, kMost));
        if (offset != start + (number ? tensor.bytes : 0)) json.fail("offsets other than the tensors make");
        offsets = number + 1;
    });
    if (offsets != 2) json.fail("offsets other than two");
    json.expect('}');
    tensor.data = body + start;
    return tensor;
}

}  // namespace

const Type* find_type(const std::string& name) {
    for (const Type& type : kTypes)
        if (name == type.name) return &type;
    return nullptr;
}

Container read_container(const uint8_t* data, uint64_t bytes) {
    const std::string_view padded = read_header_text(data, bytes);
    const std::string start = std::string("{\"__metadata__\":{\"") + kMetadataKey + "\":\"";
    if (padded.substr(0, start.size()) != start)
        throw Failure(MEMREC_NOT_AN_ARTIFACT, "it has no metadata of memrec-convert: it is no artifact of this tool.");
    const uint8_t* body = data + kLengthBytes + padded.size();
    const uint64_t body_bytes = bytes - kLengthBytes - padded.size();
    JsonReader json(drop_padding(padded), "the header");
    Container found;
    uint64_t next = 0;
    uint32_t width = 0;
    std::string before;
    json.object(
        [&](const std::string& name) {
            if (found.metadata.empty()) {
                json.object([&](const std::string& key) {
                    if (key != kMetadataKey) json.fail("metadata of others");
                    found.metadata = json.string();
                });
                if (found.metadata.empty()) json.fail("empty metadata");
                return;
            }
            Tensor tensor = read_tensor(json, body, next);
            const bool in_order = !width || tensor.type->bytes < width || (tensor.type->bytes == width && name > before);
            if (!in_order || name == "__metadata__") json.fail("tensors in another order than theirs");
            if (tensor.bytes > body_bytes - next) damaged("its end is missing: it has " + std::to_string(bytes) + " bytes");
            next += tensor.bytes;
            width = tensor.type->bytes;
            before = name;
            if (!found.tensors.emplace(name, std::move(tensor)).second) json.fail("a tensor twice");
        },
        false);
    json.end();
    if (next != body_bytes) damaged("it has " + std::to_string(body_bytes - next) + " bytes behind its last tensor");
    return found;
}

}  // namespace memrec
