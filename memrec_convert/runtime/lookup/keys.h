// An index of keys read from end to end: to check it, and to lay its keys out once more for speed, one cache line per bucket
// of their own.
//
// The packed keys take a load for a bucket's start, one for its end and two for its keys; in a line one load finds an id.
// Buckets of lines divide the mixed ids evenly, some 18 to a line; the few that a full line has no room for are found in the
// index itself.
#pragma once

#include <cstdint>

#include "tables.h"

namespace memrec {

// Gives the mixed ids of an index one after the other, in rising order, and stops where it is damaged.
class KeyWalk {
  public:
    explicit KeyWalk(const Index& index);

    bool next();                           // false at the end or at a fault
    uint64_t mixed() const { return mixed_; }
    const char* fault() const { return fault_; }  // what is wrong so far, or null

  private:
    uint64_t start_of(uint64_t bucket) const;
    bool stop(const char* fault);

    const Index& index_;
    const uint64_t buckets_;
    uint64_t bucket_ = 0, place_ = 0, end_ = 0, mixed_ = 0;
    const char* fault_ = nullptr;
};

// The id whose mixed value this is.
uint64_t unmix_id(uint64_t mixed, uint32_t bits);

// How many lines an index gets: 0 for a bitmap, which is one load too, and where 64-bit products would overflow.
uint64_t count_lines(const Index& index);

// Fills `count` zeroed lines; false where the index is damaged.
bool build_lines(const Index& index, KeyLine* lines, uint64_t count);

}  // namespace memrec
