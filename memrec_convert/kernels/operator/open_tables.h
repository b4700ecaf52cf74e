// Packed tables, opened when they are first seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "memrec.h"

namespace memrec {

struct OpenTables {
    memrec_artifact* artifact;
    std::vector<int32_t> dims;  // by number of the table

    explicit OpenTables(memrec_artifact* opened);
    ~OpenTables() { memrec_close(artifact); }
    OpenTables(const OpenTables&) = delete;
    OpenTables& operator=(const OpenTables&) = delete;
};

// The tables of an artifact's bytes, which stay where they are while calls use them. They are read in place: what is kept of
// them is small, and the oldest of many is forgotten. At first sight every digest is checked; std::runtime_error where the
// bytes are not sound.
std::shared_ptr<const OpenTables> open_tables(const uint8_t* data, size_t bytes);

// A pool for so many lookups, on as many threads as torch uses; null where they are too few for threads.
memrec_pool* pool_for(int64_t lookups);

}  // namespace memrec
