#include "keys.h"

#include <algorithm>

#include "slots.h"

namespace memrec {
namespace {

constexpr uint64_t kMeanKeysPerLine = 18;
constexpr uint32_t kLineKeyBits = 16;  // the lowest mixed bits tell the ids of a line apart
constexpr uint32_t kMostProductBits = 63;

// Of an odd number modulo 2^64: each step doubles the bits that are right.
constexpr uint64_t invert(uint64_t odd) {
    uint64_t inverse = odd;
    for (int step = 0; step < 5; ++step) inverse *= 2 - odd * inverse;
    return inverse;
}

}  // namespace

KeyWalk::KeyWalk(const Index& index) : index_(index), buckets_(uint64_t{1} << (index.mixed_bits - index.key_bits)) {
    end_ = start_of(0);
    if (end_ != 0 || start_of(buckets_) != index.count) stop("its bucket starts do not rise from 0 to the number of ids");
}

uint64_t KeyWalk::start_of(uint64_t bucket) const {
    return uint64_t{load_32(index_.data + (bucket >> 6) * 4)} + load_16(index_.data + index_.starts_at + bucket * 2);
}

bool KeyWalk::stop(const char* fault) {
    fault_ = fault;
    return false;
}

bool KeyWalk::next() {
    if (fault_) return false;
    while (place_ == end_) {  // bucket_ is the next one to begin
        if (bucket_ == buckets_) return false;
        const uint64_t stop_at = start_of(++bucket_);
        if (stop_at < end_ || stop_at > index_.count) return stop("its bucket starts do not rise from 0 to the number of ids");
        end_ = stop_at;
    }
    const uint64_t bit = place_ * index_.key_bits;
    const uint64_t key = (load_32(index_.data + index_.keys_at + (bit >> 3)) >> (bit & 7)) & ((1u << index_.key_bits) - 1);
    const uint64_t mixed = ((bucket_ - 1) << index_.key_bits) | key;
    if (place_ && mixed <= mixed_) return stop("its keys do not rise within their buckets");
    mixed_ = mixed;
    ++place_;
    return true;
}

uint64_t unmix_id(uint64_t mixed, uint32_t bits) {
    const uint64_t mask = (uint64_t{1} << bits) - 1;
    const uint32_t half = (bits + 1) / 2;
    uint64_t id = ((mixed ^ (mixed >> half)) * invert(0x85EBCA6Bull)) & mask;
    return ((id ^ (id >> half)) * invert(0x9E3779B1ull)) & mask;
}

uint64_t count_lines(const Index& index) {
    if (index.kind != IndexKind::keys || index.count == 0) return 0;
    const uint32_t more = index.mixed_bits > kLineKeyBits ? index.mixed_bits - kLineKeyBits : 0;
    const uint64_t lines = std::max((index.count + kMeanKeysPerLine - 1) / kMeanKeysPerLine, uint64_t{1} << more);
    uint32_t bits = index.mixed_bits;
    for (uint64_t left = lines; left; left >>= 1) ++bits;
    return bits < kMostProductBits ? lines : 0;
}

bool build_lines(const Index& index, KeyLine* lines, uint64_t count) {
    KeyWalk keys(index);
    uint64_t begun = 0;  // lines whose first place is known
    for (uint64_t place = 0; keys.next(); ++place) {
        const uint64_t number = (keys.mixed() * count) >> index.mixed_bits;
        for (; begun <= number; ++begun) lines[begun].first = static_cast<uint32_t>(place);
        KeyLine& line = lines[number];
        if (line.held < kKeysPerLine) line.keys[line.held] = static_cast<uint16_t>(keys.mixed());
        if (line.held <= kKeysPerLine) ++line.held;
    }
    for (; begun < count; ++begun) lines[begun].first = static_cast<uint32_t>(index.count);
    return !keys.fault();
}

}  // namespace memrec
