// The Python side: tables described by dictionaries become a capsule; lookups take addresses and release the GIL.
#include <algorithm>
#include <new>
#include <vector>

#include "dense.h"
#include "encoding.h"
#include "files.h"
#include "lookup/engine.h"
#include "stable_python.h"
#include "state.h"
#include "tables.h"
#include "tensors.h"
#include "training.h"

namespace {

using memrec::Bags;
using memrec::bags_of_grid;
using memrec::bags_of_thread;
using memrec::Grid;
using memrec::Request;
using memrec::kCapsule;
using memrec::read_numbers;
using memrec::Table;
using memrec::Tables;
using memrec::tables_of;

constexpr int64_t kManyFloats = 256 << 10;  // of an output that look_up_few leaves to the pool of large pages

enum { kType, kCountThreads };
PyObject* torch[2] = {nullptr, nullptr};  // the type of its tensors, and what says its number of threads

// Reads a dictionary's numbers; the first that lacks or is no number leaves a Python error.
class Reader {
  public:
    explicit Reader(PyObject* dictionary) : dictionary_(dictionary) {}

    int64_t number(const char* name) {
        PyObject* value = PyDict_GetItemString(dictionary_, name);  // borrowed
        if (!value) {
            if (!PyErr_Occurred()) PyErr_Format(PyExc_KeyError, "a table's description lacks %s", name);
            failed_ = true;
            return 0;
        }
        const long long result = PyLong_AsLongLong(value);
        if (result == -1 && PyErr_Occurred()) failed_ = true;
        return result;
    }

    template <class T>
    T as(const char* name) {
        return static_cast<T>(number(name));
    }

    template <class T>
    const T* address(const char* name) {
        return reinterpret_cast<const T*>(static_cast<uintptr_t>(number(name)));
    }

    PyObject* list(const char* name, Py_ssize_t most) {
        PyObject* value = PyDict_GetItemString(dictionary_, name);
        if (!value || !PyList_Check(value) || PyList_Size(value) > most) {
            if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "a table's %s are no list of at most %zd", name, most);
            failed_ = true;
            return nullptr;
        }
        return value;
    }

    bool failed() const { return failed_; }

  private:
    PyObject* dictionary_;
    bool failed_ = false;
};

bool read_rows(Reader& from, memrec::Rows& rows) {
    rows.codec = from.as<memrec::Codec>("codec");
    rows.rows = from.address<void>("codec_rows");
    rows.scale = from.address<void>("codec_scale");
    return !from.failed();
}

bool read_level(PyObject* plain, memrec::Level& level) {
    Reader from(plain);
    level.index.kind = from.as<memrec::IndexKind>("index_kind");
    level.index.data = from.address<uint8_t>("index");
    level.index.bytes = from.number("index_bytes");
    level.index.count = from.as<uint64_t>("count");
    level.index.key_bits = from.as<uint32_t>("key_bits");
    level.index.mixed_bits = from.as<uint32_t>("mixed_bits");
    level.index.starts_at = from.number("starts_at");
    level.index.keys_at = from.number("keys_at");
    level.index.lines = from.address<memrec::KeyLine>("lines");
    level.index.line_count = from.as<uint64_t>("line_count");
    level.stored = from.number("stored") != 0;
    level.depth = from.as<int32_t>("depth");
    level.entry_bits = from.as<uint32_t>("entry_bits");
    level.codes = from.address<uint8_t>("codes");
    return read_rows(from, level.rows);
}

bool read_stages(Reader& from, Table& table) {
    PyObject* stages = from.list("stages", memrec::kMostStages);
    table.stages = stages ? static_cast<int32_t>(PyList_Size(stages)) : 0;
    for (int s = 0; s < table.stages; ++s) {
        Reader stage(PyList_GetItem(stages, s));
        table.stage[s] = {stage.as<uint32_t>("bits"), stage.as<int32_t>("first"), stage.as<int32_t>("shift")};
        if (stage.failed()) return false;
    }
    return stages != nullptr;
}

void read_hashing(Reader& from, memrec::Hashing& hashing) {
    hashing.tokens = from.address<void>("tokens");
    hashing.whole = from.number("whole_tokens") != 0;
    hashing.scale = from.address<float>("token_scale");
    hashing.weights = from.address<uint16_t>("token_weights");
    hashing.rows = from.as<uint32_t>("token_rows");
    hashing.blocks = from.as<uint32_t>("weight_blocks");
    hashing.seed = from.as<uint32_t>("hash_seed");
    hashing.k = from.as<int32_t>("k");
    hashing.k_weights = from.as<int32_t>("k_weights");
}

bool read_table(PyObject* plain, Table& table) {
    if (!PyDict_Check(plain)) {
        PyErr_SetString(PyExc_TypeError, "a table's description is no dictionary");
        return false;
    }
    Reader from(plain);
    table.rows = from.as<uint64_t>("rows");
    table.dim = from.as<int32_t>("dim");
    table.kept = from.number("kept") != 0;
    table.frame = from.address<float>("frame");
    table.codebook = from.address<int8_t>("codebook");
    table.base = from.address<uint8_t>("base");
    table.base_bits = from.as<uint32_t>("base_bits");
    table.base_depth = from.as<int32_t>("base_depth");
    table.outside = from.as<memrec::Outside>("outside");
    table.pooling = from.as<memrec::Pooling>("pooling");
    table.padding = from.number("padding");
    if (!read_rows(from, table.kept_rows) || !read_stages(from, table)) return false;
    read_hashing(from, table.hashing);
    PyObject* levels = from.list("levels", memrec::kMostLevels);
    if (from.failed() || !levels) return false;
    table.levels = static_cast<int32_t>(PyList_Size(levels));
    for (int l = 0; l < table.levels; ++l)
        if (!read_level(PyList_GetItem(levels, l), table.level[l])) return false;
    if (table.hashing.k > memrec::kMostTokens || table.hashing.k_weights > memrec::kWeightLanes ||
        table.base_depth > table.stages || table.dim < 1) {
        PyErr_SetString(PyExc_ValueError, "a table's description is beyond the kernel's limits");
        return false;
    }
    for (int l = 0; l < table.levels; ++l) {
        if (!table.level[l].stored && (table.level[l].depth <= table.base_depth || table.level[l].depth > table.stages)) {
            PyErr_SetString(PyExc_ValueError, "a level's depth is not between the base's and the stages'");
            return false;
        }
    }
    return true;
}

bool read_place(PyObject* plain, Tables& tables) {
    Reader from(plain);
    tables.places.push_back({from.number("input"), from.number("column")});
    return !from.failed();
}

void free_tables(PyObject* capsule) { delete static_cast<Tables*>(PyCapsule_GetPointer(capsule, kCapsule)); }

PyObject* make_tables(PyObject*, PyObject* list) {
    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_TypeError, "make_tables takes a list of descriptions");
        return nullptr;
    }
    auto* made = new (std::nothrow) Tables;
    if (!made) return PyErr_NoMemory();
    made->tables.resize(static_cast<size_t>(PyList_Size(list)));
    for (size_t t = 0; t < made->tables.size(); ++t) {
        Table& table = made->tables[t] = Table{};
        PyObject* plain = PyList_GetItem(list, static_cast<Py_ssize_t>(t));
        if (!read_table(plain, table) || !read_place(plain, *made)) {
            delete made;
            return nullptr;
        }
        made->derived.complete(table);
        made->width = made->places.back().column + table.dim;
        made->last_input = std::max(made->last_input, made->places.back().input);
        made->as_wide = made->as_wide && table.dim == made->tables[0].dim;
    }
    PyObject* capsule = PyCapsule_New(made, kCapsule, free_tables);
    if (!capsule) delete made;
    return capsule;
}

// With the GIL released.
memrec::Finding look_up_freely(const std::vector<Bags>& bags, int64_t samples, bool stream, int threads, uint64_t* clock) {
    const Request request = {bags.data(), static_cast<int64_t>(bags.size()), samples, memrec::active_kernel(), stream, clock};
    memrec::Finding finding;
    Py_BEGIN_ALLOW_THREADS;
    finding = memrec::look_up(request, threads > 1 ? memrec::shared_pool() : nullptr, threads);
    Py_END_ALLOW_THREADS;
    return finding;
}

// None, or (fault, table, position) with fault "id", "offset" or "weight".
PyObject* run(const std::vector<Bags>& bags, int64_t samples, bool stream, int threads, uint64_t* clock) {
    const memrec::Finding finding = look_up_freely(bags, samples, stream, threads, clock);
    static const char* const names[] = {"", "id", "offset", "weight"};
    if (finding.fault == memrec::Fault::none) Py_RETURN_NONE;
    if (finding.fault == memrec::Fault::memory) return PyErr_NoMemory();
    return Py_BuildValue("(sLL)", names[static_cast<int>(finding.fault)], static_cast<long long>(finding.table),
                         static_cast<long long>(finding.position));
}

PyObject* wrong_count(const char* function) {
    PyErr_Format(PyExc_TypeError, "%s: wrong number of arguments", function);
    return nullptr;
}

// look_up_grid(tables, ids, narrow, sample_stride, input_stride, samples, out, out_stride, stream, threads, clock)
PyObject* look_up_grid(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 11) return wrong_count("look_up_grid");
    Tables* tables = tables_of(args[0]);
    int64_t n[10];
    if (!tables || !read_numbers(args + 1, 10, n)) return nullptr;
    const Grid grid = {reinterpret_cast<const void*>(static_cast<uintptr_t>(n[0])), n[1] != 0, n[4], 0, n[2], n[3]};
    const auto& bags = bags_of_grid(*tables, grid, reinterpret_cast<float*>(static_cast<uintptr_t>(n[5])), n[6]);
    return run(bags, n[4], n[7] != 0, static_cast<int>(n[8]), reinterpret_cast<uint64_t*>(static_cast<uintptr_t>(n[9])));
}

// connect(torch.Tensor, torch.get_num_threads): whether look_up_few has torch's tensors from now on.
PyObject* connect(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 2) return wrong_count("connect");
    PyObject* capsule = PyObject_GetAttrString(args[0], "__dlpack_c_exchange_api__");
    const void* table = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : nullptr;
    Py_XDECREF(capsule);  // torch keeps what it holds
    PyErr_Clear();
    if (!table || !memrec::set_exchange(table)) Py_RETURN_FALSE;
    for (int i = 0; i < 2; ++i) {
        Py_INCREF(args[i]);
        Py_XDECREF(torch[i]);
        torch[i] = args[i];
    }
    Py_RETURN_TRUE;
}

}  // namespace

int memrec::count_torch_threads() {
    PyObject* number = PyObject_CallNoArgs(torch[kCountThreads]);
    const long threads = number ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    return static_cast<int>(threads);
}

bool memrec::is_tensor(PyObject* object) { return reinterpret_cast<PyObject*>(Py_TYPE(object)) == torch[kType]; }

namespace {

// Vectors [B, T, dim], or [B, width] of tables that are not as wide as each other.
PyObject* make_tensor(memrec::Output* output, const Tables& tables, int64_t samples) {
    const auto count = static_cast<int64_t>(tables.tables.size());
    const int64_t by_table[] = {samples, count, tables.width / count}, together[] = {samples, tables.width};
    return static_cast<PyObject*>(memrec::make_tensor(output, tables.as_wide ? 3 : 2, tables.as_wide ? by_table : together));
}

// look_up_few(tables, ids): the vectors of a tensor of ids [B, inputs]. None for others to take or to say what is wrong:
// where it is no such tensor, has a large output, or an id outside its table.
PyObject* look_up_few(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 2) return wrong_count("look_up_few");
    Tables* tables = tables_of(args[0]);
    if (!tables) return nullptr;
    Grid grid;
    if (reinterpret_cast<PyObject*>(Py_TYPE(args[1])) != torch[kType] || !memrec::read_grid(args[1], grid)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    const auto table_count = static_cast<int64_t>(tables->tables.size());
    const int64_t floats = grid.samples * tables->width;
    if (floats >= kManyFloats || !table_count || grid.inputs <= tables->last_input) Py_RETURN_NONE;
    const int threads = grid.samples * table_count < memrec::kLookupsPerThread ? 1 : memrec::count_torch_threads();
    if (threads < 1) return nullptr;
    memrec::Output* output = memrec::take_output(floats);
    if (!output) return PyErr_NoMemory();
    const auto& bags = bags_of_grid(*tables, grid, memrec::memory_of(output), tables->width);
    const memrec::Fault fault = look_up_freely(bags, grid.samples, false, threads, nullptr).fault;
    if (fault == memrec::Fault::none) return make_tensor(output, *tables, grid.samples);
    memrec::give_back(output);
    Py_RETURN_NONE;
}

PyObject* idle_bytes(PyObject*, PyObject*) { return PyLong_FromLongLong(memrec::idle_output_bytes()); }

// look_up_bags(tables, [(ids, narrow, stride, count, offsets, narrow_offsets, weights)], samples, out, out_stride, threads)
PyObject* look_up_bags(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 6) return wrong_count("look_up_bags");
    Tables* tables = tables_of(args[0]);
    int64_t n[4];
    if (!tables || !read_numbers(args + 2, 4, n)) return nullptr;
    if (!PyList_Check(args[1]) || static_cast<size_t>(PyList_Size(args[1])) != tables->tables.size()) {
        PyErr_SetString(PyExc_ValueError, "look_up_bags: one input per table is needed");
        return nullptr;
    }
    std::vector<Bags>& bags = bags_of_thread(tables->tables.size());
    for (size_t t = 0; t < bags.size(); ++t) {
        PyObject* input = PyList_GetItem(args[1], static_cast<Py_ssize_t>(t));
        int64_t m[7];
        if (!PyTuple_Check(input) || PyTuple_Size(input) != 7) return wrong_count("look_up_bags: an input");
        for (int i = 0; i < 7; ++i) {
            PyObject* item = PyTuple_GetItem(input, i);
            if (!read_numbers(&item, 1, m + i)) return nullptr;
        }
        const Table& table = tables->tables[t];
        float* out = reinterpret_cast<float*>(static_cast<uintptr_t>(n[1]));
        bags[t] = {&table, table.outside, m[1] != 0, m[5] != 0, reinterpret_cast<const void*>(static_cast<uintptr_t>(m[0])),
                   m[2], m[3], reinterpret_cast<const void*>(static_cast<uintptr_t>(m[4])),
                   reinterpret_cast<const float*>(static_cast<uintptr_t>(m[6])), tables->start_of(t, n[0], out, n[2]),
                   n[2] ? n[2] : table.dim};
    }
    return run(bags, n[0], false, static_cast<int>(n[3]), nullptr);
}

// sum_rows(rows, dim, numbers, counts, most, factors, n, out): see tables.h
PyObject* sum_rows(PyObject*, PyObject* const* args, Py_ssize_t count) {
    int64_t n[8];
    if (count != 8) return wrong_count("sum_rows");
    if (!read_numbers(args, 8, n)) return nullptr;
    const auto at = [&](int i) { return static_cast<uintptr_t>(n[i]); };
    Py_BEGIN_ALLOW_THREADS;
    memrec::active_kernel()->sum_rows(reinterpret_cast<const int8_t*>(at(0)), static_cast<int32_t>(n[1]),
                                      reinterpret_cast<const int32_t*>(at(2)), reinterpret_cast<const uint8_t*>(at(3)),
                                      static_cast<int32_t>(n[4]), reinterpret_cast<const float*>(at(5)), n[6],
                                      reinterpret_cast<float*>(at(7)));
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyObject* instruction_sets(PyObject*, PyObject*) {
    PyObject* list = PyList_New(0);
    for (const memrec::Kernel* const* one = memrec::available_kernels(); list && *one; ++one) {
        PyObject* name = PyUnicode_FromString((*one)->name);
        if (!name || PyList_Append(list, name) < 0) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

PyObject* active(PyObject*, PyObject*) { return PyUnicode_FromString(memrec::active_kernel()->name); }

PyObject* choose(PyObject*, PyObject* name) {
    PyObject* bytes = PyUnicode_AsUTF8String(name);
    if (!bytes) return nullptr;
    const bool chosen = memrec::choose_kernel(PyBytes_AsString(bytes));
    Py_DECREF(bytes);
    return PyBool_FromLong(chosen);
}

template <class F>
PyCFunction as_function(F function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}

PyMethodDef methods[] = {
    {"connect", as_function(connect), METH_FASTCALL, "Lets look_up_few have torch's tensors; False where torch is too old."},
    {"make_tables", make_tables, METH_O, "A capsule of tables from their descriptions; the tensors stay the caller's."},
    {"look_up_grid", as_function(look_up_grid), METH_FASTCALL, "Rows of one id per sample and table."},
    {"look_up_few", as_function(look_up_few), METH_FASTCALL,
     "Rows of one id per sample and table, from a tensor to a new one."},
    {"look_up_bags", as_function(look_up_bags), METH_FASTCALL, "Pooled rows of bags of ids."},
    {"make_layer", as_function(memrec::make_layer), METH_FASTCALL, "A capsule of a linear layer, its weights packed."},
    {"run_layer", as_function(memrec::run_layer), METH_FASTCALL, "A linear layer on rows."},
    {"make_network", memrec::make_network, METH_O, "A capsule of a network over tables and layers."},
    {"run_network", as_function(memrec::run_network), METH_FASTCALL, "Logits of dense features and ids, block by block."},
    {"multiply_pairs", as_function(memrec::multiply_pairs), METH_FASTCALL, "Products of pairs of vectors of each sample."},
    {"pull_pairs", as_function(memrec::pull_pairs), METH_FASTCALL, "The gradients of vectors whose pairs are multiplied."},
    {"dense_speed", memrec::dense_speed, METH_NOARGS, "(bf16, int8): whether this machine has instructions for them."},
    {"idle_bytes", idle_bytes, METH_NOARGS, "Bytes kept for the next output of look_up_few."},
    {"encode_rows", as_function(encode_rows), METH_FASTCALL, "Codes of rows, and how far off they are."},
    {"assign_rows", as_function(assign_rows), METH_FASTCALL, "The nearest of some centres to each row."},
    {"measure_rows", as_function(measure_rows), METH_FASTCALL, "The squared length of each row in a metric."},
    {"transform_rows", as_function(transform_rows), METH_FASTCALL, "Rows times a metric."},
    {"find_means", as_function(find_means), METH_FASTCALL, "Centres, and the nearest of them to each point."},
    {"add_by_nearest", as_function(add_by_nearest), METH_FASTCALL, "Weighted sums of the points of each centre."},
    {"square_norms", as_function(square_norms), METH_FASTCALL, "The squared length of each row, in double."},
    {"add_to_normal", as_function(add_to_normal), METH_FASTCALL, "What coded rows add to the normal equations of entries."},
    {"place_ids", as_function(place_ids), METH_FASTCALL, "The level of each id at a price."},
    {"find_paths", as_function(find_paths), METH_FASTCALL, "Codes rows in bit planes by the best paths."},
    {"move_rows", as_function(move_rows), METH_FASTCALL, "A step of Adam on the rows that a batch names."},
    {"round_int8", as_function(round_int8), METH_FASTCALL, "What int8 rows would hold of float rows."},
    {"solve_positive", as_function(solve_positive), METH_FASTCALL, "Solves a positive definite system in place."},
    {"sum_moment", as_function(sum_moment), METH_FASTCALL, "The sum of the outer products of gradients, in double."},
    {"find_spectrum", as_function(find_spectrum), METH_FASTCALL, "Eigenvalues and eigenvectors of a symmetric matrix."},
    {"sum_crc32", as_function(sum_crc32), METH_FASTCALL, "The CRC-32 of bytes; None without an instruction for it."},
    {"read_pieces", as_function(read_pieces), METH_FASTCALL, "Pieces of a file from many places."},
    {"sum_rows", as_function(sum_rows), METH_FASTCALL, "Sums of int8 rows whose numbers are given."},
    {"instruction_sets", instruction_sets, METH_NOARGS, "What this build and this machine have, best first."},
    {"active", active, METH_NOARGS, "The instruction set in use."},
    {"choose", choose, METH_O, "Uses an instruction set; False where it is not available."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The lookup kernel in C++.", -1, methods,
                          nullptr,               nullptr,   nullptr,                     nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&definition); }
