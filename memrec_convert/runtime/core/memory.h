// Memory by the page: files as they lie on the disk, and room for tables in large pages.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace memrec {

// Bytes that go away with the object.
class Memory {
  public:
    virtual ~Memory() = default;
    const uint8_t* data() const { return data_; }
    uint8_t* writable() { return data_; }
    uint64_t size() const { return size_; }

  protected:
    uint8_t* data_ = nullptr;
    uint64_t size_ = 0;
};

// A file, read-only. Failure where it is no file that can be read.
std::unique_ptr<Memory> map_file(const std::string& path);

// Zeroed bytes from a cache line on, in large pages where they fill one and the system has some.
std::unique_ptr<Memory> make_room(uint64_t bytes);

}  // namespace memrec
