#include "encoding.h"

#include <algorithm>
#include <vector>

#include "arguments.h"
#include "encode/encoder.h"
#include "encode/means.h"
#include "encode/paths.h"
#include "encode/placing.h"
#include "encode/sums.h"
#include "state.h"

namespace {

class Arguments : public memrec::Arguments {
  public:
    using memrec::Arguments::Arguments;
    memrec::RowSource rows() {  // data, kind, stride, count, dim, centre, metric
        memrec::RowSource rows{};
        rows.data = address<const void>();
        rows.kind = static_cast<memrec::RowKind>(number());
        rows.stride = number();
        rows.count = number();
        rows.dim = static_cast<int32_t>(number());
        rows.centre = address<const float>();
        rows.metric = address<const float>();
        return rows;
    }
};

constexpr Py_ssize_t kOfRows = 7;

const memrec::Encoder& encoder() { return *memrec::choose_encoder(memrec::active_kernel()->name); }

// Work without the GIL that says whether it found anything.
template <class F>
PyObject* find_freely(F work) {
    bool found = false;
    PyObject* done = memrec::freely([&] { found = work(); });
    if (!done) return nullptr;
    Py_DECREF(done);
    return PyBool_FromLong(found);
}

}  // namespace

// (rows, books, sizes, stages, depths, beam, codes, distances, each_depth); see encoder.h
PyObject* encode_rows(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("encode_rows", args, count, kOfRows + 8);
    if (!given) return nullptr;
    memrec::Coding coding{};
    coding.rows = given.rows();
    const auto* entries = given.address<const float>();
    const auto* sizes = given.address<const int32_t>();
    coding.stages = static_cast<int32_t>(given.number());
    coding.depths = given.address<const int8_t>();
    coding.beam = static_cast<int32_t>(given.number());
    coding.codes = given.address<uint8_t>();
    coding.distances = given.address<float>();
    coding.each_depth = given.number() != 0;
    if (coding.stages < 0 || coding.stages > memrec::kMostCoded || coding.beam < 1 || coding.beam > memrec::kMostBeam ||
        std::any_of(sizes, sizes + coding.stages, [](int32_t size) { return size < 1 || size > memrec::kMostEntries; })) {
        PyErr_SetString(PyExc_ValueError, "encode_rows: too many stages, entries or partial codes");
        return nullptr;
    }
    return memrec::freely([&] {
        std::vector<memrec::Book> books;
        for (int32_t stage = 0; stage < coding.stages; ++stage) {
            books.push_back(memrec::make_book(entries, sizes[stage], coding.rows.dim));
            entries += static_cast<int64_t>(sizes[stage]) * coding.rows.dim;
        }
        coding.books = books.data();
        encoder().code(coding);
    });
}

// (rows, centres, count of them, nearest, distances)
PyObject* assign_rows(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("assign_rows", args, count, kOfRows + 4);
    if (!given) return nullptr;
    memrec::Assigning task{};
    task.rows = given.rows();
    const auto* centres = given.address<const float>();
    const int64_t number = given.number();
    task.nearest = given.address<int64_t>();
    task.distances = given.address<float>();
    return memrec::freely([&] {
        const auto books = memrec::make_books(centres, number, task.rows.dim);
        task.books = books.data();
        task.book_count = static_cast<int32_t>(books.size());
        encoder().assign(task);
    });
}

// (points, count, dim, weights, centres, count of them, moves, nearest, distances)
PyObject* find_means(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("find_means", args, count, 9);
    if (!given) return nullptr;
    memrec::Clustering task{};
    task.points = given.address<const float>();
    task.count = given.number();
    task.dim = static_cast<int32_t>(given.number());
    task.weights = given.address<const float>();
    task.centres = given.address<float>();
    task.k = given.number();
    task.moves = given.number();
    task.nearest = given.address<int64_t>();
    task.distances = given.address<float>();
    return memrec::freely([&] { memrec::find_means(encoder(), task); });
}

// (rows, others, squared, widest)
PyObject* measure_rows(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("measure_rows", args, count, kOfRows + 3);
    if (!given) return nullptr;
    memrec::RowSource rows = given.rows();
    rows.others = given.address<const float>();
    auto* squared = given.address<float>();
    auto* widest = given.address<float>();
    return memrec::freely([&] { encoder().measure(rows, squared, widest); });
}

// (rows, points)
PyObject* transform_rows(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("transform_rows", args, count, kOfRows + 1);
    if (!given) return nullptr;
    const memrec::RowSource rows = given.rows();
    auto* points = given.address<float>();
    return memrec::freely([&] { encoder().transform(rows, points, rows.dim); });
}

// (points, count, dim, weights, nearest, masses, sums)
PyObject* add_by_nearest(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("add_by_nearest", args, count, 7);
    if (!given) return nullptr;
    const auto* points = given.address<const float>();
    const int64_t n = given.number(), dim = given.number();
    const auto* weights = given.address<const float>();
    const auto* nearest = given.address<const int64_t>();
    auto* masses = given.address<double>();
    auto* sums = given.address<double>();
    return memrec::freely([&] { memrec::add_by_nearest(points, n, dim, weights, nearest, masses, sums); });
}

// (rows, count, dim, stride, norms)
PyObject* square_norms(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("square_norms", args, count, 5);
    if (!given) return nullptr;
    const auto* rows = given.address<const float>();
    const int64_t n = given.number(), dim = given.number(), stride = given.number();
    auto* norms = given.address<double>();
    return memrec::freely([&] { memrec::square_norms(rows, n, dim, stride, norms); });
}

// (rows, weights, depths, codes, count, dim, stages, firsts, normal, right)
PyObject* add_to_normal(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("add_to_normal", args, count, 10);
    if (!given) return nullptr;
    memrec::Named named{};
    named.rows = given.address<const float>();
    named.weights = given.address<const float>();
    named.depths = given.address<const int8_t>();
    named.codes = given.address<const uint8_t>();
    named.count = given.number();
    named.dim = given.number();
    named.stages = given.number();
    named.firsts = given.address<const int64_t>();
    auto* normal = given.address<double>();
    auto* right = given.address<double>();
    return memrec::freely([&] { memrec::add_to_normal(named, normal, right); });
}

// (losses, stride, ids, levels, priced, open, opened, kinds, sums); see placing.h
PyObject* place_ids(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("place_ids", args, count, 9);
    if (!given) return nullptr;
    memrec::Offers offers{};
    offers.losses = given.address<const float>();
    offers.stride = given.number();
    offers.ids = given.number();
    offers.levels = given.number();
    offers.priced = given.address<const float>();
    offers.open = given.address<const int64_t>();
    offers.opened = given.number();
    auto* kinds = given.address<int8_t>();
    auto* sums = given.address<double>();
    return memrec::freely([&] { memrec::place_ids(offers, kinds, sums); });
}

// (values, count, dim, bits, levels, planes, distances); see paths.h
PyObject* find_paths(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("find_paths", args, count, 7);
    if (!given) return nullptr;
    memrec::PathSearch search{};
    search.values = given.address<const float>();
    search.count = given.number();
    search.dim = given.number();
    search.bits = static_cast<int32_t>(given.number());
    search.levels = given.address<const float>();
    search.planes = given.address<uint8_t>();
    search.distances = given.address<float>();
    return memrec::freely([&] { memrec::find_paths(search); });
}

// (matrix, n, right, width)
PyObject* solve_positive(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("solve_positive", args, count, 4);
    if (!given) return nullptr;
    auto* matrix = given.address<double>();
    const int64_t n = given.number();
    auto* right = given.address<double>();
    const int64_t width = given.number();
    return find_freely([&] { return encoder().solve(matrix, n, right, width); });
}

// (gradients, count, dim, stride, shares, moment)
PyObject* sum_moment(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("sum_moment", args, count, 6);
    if (!given) return nullptr;
    memrec::Pulled pulled{};
    pulled.gradients = given.address<const float>();
    pulled.count = given.number();
    pulled.dim = given.number();
    pulled.stride = given.number();
    pulled.shares = given.address<const double>();
    pulled.moment = given.address<double>();
    return memrec::freely([&] { encoder().sum_moment(pulled); });
}

// (matrix, n, values)
PyObject* find_spectrum(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Arguments given("find_spectrum", args, count, 3);
    if (!given) return nullptr;
    auto* matrix = given.address<double>();
    const int64_t n = given.number();
    auto* values = given.address<double>();
    return find_freely([&] { return encoder().spectrum(matrix, n, values); });
}
