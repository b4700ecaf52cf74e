// Tables as the extension holds them: a capsule, and the bags that a grid of ids makes of it.
#pragma once

#include <vector>

#include "lookup/tables.h"
#include "stable_python.h"
#include "tensors.h"

namespace memrec {

// So many integers; false and a Python error where one is none.
inline bool read_numbers(PyObject* const* from, Py_ssize_t count, int64_t* to) {
    for (Py_ssize_t i = 0; i < count; ++i) {
        to[i] = PyLong_AsLongLong(from[i]);
        if (to[i] == -1 && PyErr_Occurred()) return false;
    }
    return true;
}

constexpr const char* kCapsule = "memrec_convert.kernels.tables";

// Floats between one table's vectors and the next one's where each table's lie together: without them all would begin in
// the same set of the caches.
constexpr int64_t kGap = 80;

// Tables side by side, with the column of a grid that feeds each, and the first float of its vector in a sample's.
struct Tables {
    std::vector<Table> tables;
    struct Place {
        int64_t input, column;
    };
    std::vector<Place> places;
    int64_t width = 0, last_input = -1;
    bool as_wide = true;  // as each other
    Derived derived;

    // Where a table's vectors begin in an output whose samples are `stride` floats apart; at 0 each table's lie together.
    float* start_of(size_t t, int64_t samples, float* out, int64_t stride) const {
        return out + (stride ? places[t].column : places[t].column * samples + static_cast<int64_t>(t) * kGap);
    }
};

inline Tables* tables_of(PyObject* capsule) { return static_cast<Tables*>(PyCapsule_GetPointer(capsule, kCapsule)); }

// The bags of this thread's request; kept, so that it allocates once. Nothing on the way of a request calls Python, so
// no other request of this thread can come between.
inline std::vector<Bags>& bags_of_thread(size_t count) {
    static thread_local std::vector<Bags> bags;
    bags.resize(count);
    return bags;
}

// One id per sample and table.
inline const std::vector<Bags>& bags_of_grid(const Tables& tables, const Grid& grid, float* out, int64_t out_stride) {
    std::vector<Bags>& bags = bags_of_thread(tables.tables.size());
    const int64_t bytes = grid.input_stride * (grid.narrow ? 4 : 8);
    for (size_t t = 0; t < bags.size(); ++t) {
        const Table& table = tables.tables[t];
        bags[t] = {&table, table.outside, grid.narrow, false,
                   static_cast<const char*>(grid.ids) + tables.places[t].input * bytes, grid.sample_stride, grid.samples,
                   nullptr, nullptr, tables.start_of(t, grid.samples, out, out_stride), out_stride ? out_stride : table.dim};
    }
    return bags;
}

}  // namespace memrec
