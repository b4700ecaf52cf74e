// The outside of an artifact: a safetensors file as docs/artifact.md, section 1, has it, and the text of its metadata.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace memrec {

struct Type {
    const char* name;   // in the header
    const char* torch;  // in digests
    uint32_t bytes;     // of an element
};

const Type* find_type(const std::string& name);  // null where there is none

struct Tensor {
    const Type* type;
    std::vector<uint64_t> shape;
    const uint8_t* data;
    uint64_t bytes;
};

using Tensors = std::map<std::string, Tensor>;

struct Container {
    Tensors tensors;
    std::string metadata;
};

// Reads a file that begins at `data`; every byte of its header and its length are then as section 1 says. Failure otherwise.
Container read_container(const uint8_t* data, uint64_t bytes);

}  // namespace memrec
