#include "dense.h"

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "arguments.h"
#include "dense/network.h"
#include "state.h"
#include "tables.h"
#include "tensors.h"

namespace memrec {
namespace {

constexpr const char *kLayer = "memrec_convert.kernels.layer", *kNetwork = "memrec_convert.kernels.network";

// A network with the Python objects that its layers, tables and numbers live in.
struct Held {
    Network network;
    Tables* tables = nullptr;
    std::vector<float> first_order;
    PyObject* description = nullptr;
    ~Held() { Py_XDECREF(description); }
};

const DenseKernel& active_dense() { return find_dense_kernel(active_kernel()->name); }

PyObject* complain(const char* message) {
    PyErr_SetString(PyExc_ValueError, message);
    return nullptr;
}

template <class T>
T* at(int64_t address) {
    return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

// f(item) for every item of the list under a name of a dictionary; false and a Python error where one is wrong.
template <class F>
bool for_items(PyObject* dictionary, const char* name, F f) {
    PyObject* list = PyDict_GetItemString(dictionary, name);
    if (!list || !PyList_Check(list)) {
        PyErr_Format(PyExc_ValueError, "a network's %s are no list", name);
        return false;
    }
    for (Py_ssize_t i = 0; i < PyList_Size(list); ++i)
        if (!f(PyList_GetItem(list, i))) return false;
    return true;
}

bool read_layers(PyObject* description, const char* name, std::vector<const Layer*>& layers) {
    return for_items(description, name, [&](PyObject* item) {
        const auto* layer = static_cast<const Layer*>(PyCapsule_GetPointer(item, kLayer));
        if (layer) layers.push_back(layer);
        return layer != nullptr;
    });
}

template <class T>
bool read_list(PyObject* description, const char* name, std::vector<T>& numbers) {
    return for_items(description, name, [&](PyObject* item) {
        numbers.push_back(static_cast<T>(PyLong_AsLongLong(item)));
        return PyErr_Occurred() == nullptr;
    });
}

bool read_first_order(PyObject* description, std::vector<float>& weights) {
    return for_items(description, "first_order", [&](PyObject* item) {
        weights.push_back(static_cast<float>(PyFloat_AsDouble(item)));
        return PyErr_Occurred() == nullptr;
    });
}

int64_t number_of(PyObject* description, const char* name) {
    PyObject* value = PyDict_GetItemString(description, name);
    if (!value) {
        PyErr_Format(PyExc_KeyError, "a network's description lacks %s", name);
        return -1;
    }
    return PyLong_AsLongLong(value);
}

bool chain(const std::vector<const Layer*>& layers, int64_t inputs) {
    for (const Layer* layer : layers) {
        if (layer->inputs != inputs) return false;
        inputs = layer->outputs;
    }
    return true;
}

// Whether the layers take what is before them: nothing else keeps a wrong description from wild reads.
bool fits(const Network& network) {
    if (network.top.empty() || network.top.back()->outputs != 1 || network.dense_inputs < 0) return false;
    const int64_t dense = network.bottom.empty() ? network.dense_inputs : network.bottom.back()->outputs;
    const auto vectors = static_cast<int64_t>(network.widths.size()) + 1;
    int64_t inputs = dense;
    for (const int64_t width : network.widths) {
        if (width < 1 || (network.interaction == Interaction::pairs && width != dense)) return false;
        inputs += width;
    }
    if (network.interaction == Interaction::pairs) {
        if (static_cast<int64_t>(network.places.size()) != vectors * vectors) return false;
        const int32_t most = *std::max_element(network.places.begin(), network.places.end());
        if (dense + most >= network.top[0]->inputs || network.top[0]->inputs < dense) return false;
        inputs = network.top[0]->inputs;
    } else if (network.interaction == Interaction::factors) {
        if (network.fields < 1 || network.fields >= vectors) return false;
        for (int64_t t = 0; t + 1 < vectors; ++t)
            if (network.widths[static_cast<size_t>(t)] != (t < network.fields ? network.widths[0] : 1)) return false;
        inputs -= vectors - 1 - network.fields;
    }
    if (network.cross.size() % 2) return false;
    for (size_t l = 0; l < network.cross.size(); l += 2)
        if (network.cross[l]->inputs != inputs || network.cross[l + 1]->outputs != inputs ||
            network.cross[l]->outputs != network.cross[l + 1]->inputs)
            return false;
    const bool padded = network.interaction == Interaction::joined && network.top[0]->inputs > inputs;
    return chain(network.bottom, network.dense_inputs) && chain(network.top, padded ? network.top[0]->inputs : inputs);
}

bool fill(PyObject* description, Held& held) {
    Network& network = held.network;
    network.interaction = static_cast<Interaction>(number_of(description, "interaction"));
    network.dense_inputs = number_of(description, "dense_inputs");
    network.fields = number_of(description, "fields");
    network.linear = static_cast<Linear>(number_of(description, "linear"));
    if (PyErr_Occurred()) return false;
    PyObject* tables = PyDict_GetItemString(description, "tables");
    if (tables && tables != Py_None && !(held.tables = tables_of(tables))) return false;
    if (!read_layers(description, "bottom", network.bottom) || !read_layers(description, "cross", network.cross) ||
        !read_layers(description, "top", network.top) || !read_list(description, "widths", network.widths) ||
        !read_list(description, "places", network.places) || !read_first_order(description, held.first_order))
        return false;
    network.first_order = held.first_order.data();
    int64_t weighed = network.linear == Linear::dense ? network.dense_inputs : 0;
    if (network.linear == Linear::rows && !network.widths.empty()) weighed = network.fields * network.widths[0];
    bool right = fits(network) && weighed == static_cast<int64_t>(held.first_order.size());
    if (right && held.tables) {
        right = held.tables->tables.size() == network.widths.size();
        for (size_t t = 0; right && t < network.widths.size(); ++t) right = held.tables->tables[t].dim == network.widths[t];
    }
    return right || complain("a network's layers and tables do not fit each other");
}

// Reads dense features and ids or vectors; false where they are none that the network takes.
bool read_samples(const Held& held, PyObject* const* args, Samples& samples) {
    Rows32 dense, vectors;
    if (!is_tensor(args[1]) || !is_tensor(args[2]) || !read_rows32(args[1], dense)) return false;
    if (dense.columns != held.network.dense_inputs) return false;
    samples = {dense.rows, dense.data, dense.stride, nullptr, active_kernel(), nullptr, 0};
    int64_t width = 0;
    for (const int64_t one : held.network.widths) width += one;
    if (read_rows32(args[2], vectors)) {
        samples.vectors = vectors.data;
        samples.vector_stride = vectors.stride;
        return vectors.columns == width && vectors.rows == dense.rows;
    }
    PyErr_Clear();
    Grid grid;
    if (!held.tables || !read_grid(args[2], grid) || grid.inputs <= held.tables->last_input || grid.samples != dense.rows) return false;
    samples.bags = bags_of_grid(*held.tables, grid, nullptr, 1).data();
    return true;
}

}  // namespace

// make_layer(weights, precision, outputs, inputs, scale, bias, relu, positive): addresses of numbers that are copied
PyObject* make_layer(PyObject*, PyObject* const* args, Py_ssize_t count) {
    int64_t n[8];
    if (count != 8) return PyErr_Format(PyExc_TypeError, "make_layer: wrong number of arguments");
    if (!read_numbers(args, 8, n)) return nullptr;
    if (n[1] < 0 || n[1] > 2 || n[2] < 1 || n[3] < 1 || n[3] > 1 << 22) return complain("make_layer: no such layer");
    std::unique_ptr<Layer> layer;
    try {
        layer = pack_layer({at<void>(n[0]), at<float>(n[4]), at<float>(n[5])}, static_cast<Precision>(n[1]), n[2], n[3], n[6] != 0,
                           n[7] != 0);
    } catch (const std::bad_alloc&) {
        return PyErr_NoMemory();
    }
    PyObject* capsule = PyCapsule_New(layer.get(), kLayer, [](PyObject* held) {
        delete static_cast<Layer*>(PyCapsule_GetPointer(held, kLayer));
    });
    if (capsule) layer.release();
    return capsule;
}

// run_layer(layer, rows, stride, count, out, out_stride, threads): addresses and strides of float32
PyObject* run_layer(PyObject*, PyObject* const* args, Py_ssize_t count) {
    int64_t n[6];
    if (count != 7) return PyErr_Format(PyExc_TypeError, "run_layer: wrong number of arguments");
    const auto* layer = static_cast<const Layer*>(PyCapsule_GetPointer(args[0], kLayer));
    if (!layer || !read_numbers(args + 1, 6, n)) return nullptr;
    bool done = true;
    Py_BEGIN_ALLOW_THREADS;
    done = run_layer(*layer, active_dense(), {at<float>(n[0]), n[1], n[2]}, at<float>(n[3]), n[4],
                     n[5] > 1 ? shared_pool() : nullptr, static_cast<int>(n[5]));
    Py_END_ALLOW_THREADS;
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

// A dictionary: interaction, tables (a capsule or None), bottom, cross and top (capsules of layers), dense_inputs, widths,
// places, fields, linear, first_order.
PyObject* make_network(PyObject*, PyObject* description) {
    if (!PyDict_Check(description)) return complain("a network's description is no dictionary");
    std::unique_ptr<Held> held(new (std::nothrow) Held);
    if (!held) return PyErr_NoMemory();
    if (!fill(description, *held)) return nullptr;
    Py_INCREF(description);
    held->description = description;
    PyObject* capsule = PyCapsule_New(held.get(), kNetwork, [](PyObject* capsule) {
        delete static_cast<Held*>(PyCapsule_GetPointer(capsule, kNetwork));
    });
    if (capsule) held.release();
    return capsule;
}

// run_network(network, dense, ids or vectors, block): logits [B]. None for others to take or to say what is wrong: where the
// tensors are none that it takes, or an id is outside its table.
PyObject* run_network(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 4) return PyErr_Format(PyExc_TypeError, "run_network: wrong number of arguments");
    auto* held = static_cast<Held*>(PyCapsule_GetPointer(args[0], kNetwork));
    int64_t block;
    if (!held || !read_numbers(args + 3, 1, &block)) return nullptr;
    Samples samples;
    if (!read_samples(*held, args, samples)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    const int threads = samples.count < kMostRows ? 1 : count_torch_threads();
    if (threads < 1) return nullptr;
    Output* output = take_output(std::max<int64_t>(samples.count, 1));
    if (!output) return PyErr_NoMemory();
    Outcome outcome = Outcome::memory;
    Py_BEGIN_ALLOW_THREADS;
    outcome = run_network(held->network, active_dense(), samples, memory_of(output), threads > 1 ? shared_pool() : nullptr, threads,
                          block);
    Py_END_ALLOW_THREADS;
    if (outcome == Outcome::done) return static_cast<PyObject*>(make_tensor(output, 1, &samples.count));
    give_back(output);
    if (outcome == Outcome::memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

namespace {

// Vectors [samples, count, width], and where the products of their pairs are in each sample's.
struct PairBatch {
    const float* vectors;
    int64_t samples, count, width;
    const int32_t* places;
    int64_t pairs;

    int64_t first(int64_t sample) const { return sample * count * width; }
};

// PairBatch as six numbers, then `more` addresses; false and a Python error where they are not that.
bool read_pairs(PyObject* const* args, Py_ssize_t count, PairBatch& batch, int64_t* addresses, Py_ssize_t more) {
    int64_t given[6];
    if (count != 6 + more) return complain("pairs: another number of arguments");
    if (!read_numbers(args, 6, given) || !read_numbers(args + 6, static_cast<int>(more), addresses)) return false;
    batch = {at<const float>(given[0]), given[1], given[2], given[3], at<const int32_t>(given[4]), given[5]};
    return true;
}

}  // namespace

// (the six of a PairBatch, out [samples, pairs])
PyObject* multiply_pairs(PyObject*, PyObject* const* args, Py_ssize_t count) {
    PairBatch batch;
    int64_t out;
    if (!read_pairs(args, count, batch, &out, 1)) return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    const DenseKernel& kernel = active_dense();
    for (int64_t n = 0; n < batch.samples; ++n)
        kernel.pairs(batch.vectors + batch.first(n), batch.count, batch.width, batch.places, at<float>(out) + n * batch.pairs);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// (the six of a PairBatch, pulls [samples, pairs], out like vectors)
PyObject* pull_pairs(PyObject*, PyObject* const* args, Py_ssize_t count) {
    PairBatch batch;
    int64_t more[2];
    if (!read_pairs(args, count, batch, more, 2)) return nullptr;
    return freely([&] {
        const DenseKernel& kernel = active_dense();
        std::vector<float> square(static_cast<size_t>(batch.count * batch.count));
        for (int64_t n = 0; n < batch.samples; ++n)
            kernel.pull_pairs(batch.vectors + batch.first(n), batch.count, batch.width, batch.places,
                              at<const float>(more[0]) + n * batch.pairs, square.data(), at<float>(more[1]) + batch.first(n));
    });
}

PyObject* dense_speed(PyObject*, PyObject*) {
    const DenseKernel& kernel = active_dense();
    return Py_BuildValue("(OO)", kernel.fast_bf16 ? Py_True : Py_False, kernel.fast_int8 ? Py_True : Py_False);
}

}  // namespace memrec
