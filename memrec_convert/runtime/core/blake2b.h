// BLAKE2b with a digest of 16 bytes and no key (RFC 7693).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace memrec {

class Blake2b {
  public:
    Blake2b();
    void add(const void* bytes, size_t count);
    std::string finish();  // 32 lower-case hexadecimal digits; once

  private:
    void compress(const uint8_t* block, bool last);

    uint64_t state_[8];
    uint64_t count_ = 0;
    size_t held_ = 0;
    uint8_t block_[128];
};

}  // namespace memrec
