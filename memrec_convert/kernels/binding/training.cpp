#include "training.h"

#include <cmath>
#include <vector>

#include "arguments.h"

namespace {

// Rows [rows, dim] of Adam without momentum; see finetune/row_adam.py.
struct Moving {
    float *rows, *squares;  // squares: the second moment
    int64_t* moved;         // of each row the step of its last move
    int32_t* slots;         // of each row that this step moves, where its gradients are summed
    int64_t dim;
    const int64_t* ids;  // of the gradients, [count]
    const float* gradients;
    int64_t count, step;
    const double* rates;  // rate, beta, epsilon
};

void move(const Moving& work) {
    const int64_t dim = work.dim;
    const double beta = work.rates[1];
    std::vector<int64_t> ids;
    std::vector<float> decays, sums;
    ids.reserve(work.count);
    decays.reserve(work.count);
    sums.reserve(work.count * dim);
    for (int64_t n = 0; n < work.count; ++n) {  // sums are taken in the order of the batch
        const int64_t id = work.ids[n];
        const float* gradient = work.gradients + n * dim;
        if (work.moved[id] != work.step) {
            decays.push_back(static_cast<float>(std::pow(beta, static_cast<double>(work.step - work.moved[id]))));
            work.slots[id] = static_cast<int32_t>(ids.size());
            work.moved[id] = work.step;
            ids.push_back(id);
            sums.insert(sums.end(), gradient, gradient + dim);
            continue;
        }
        float* sum = sums.data() + work.slots[id] * dim;
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) sum[d] += gradient[d];
    }
    const auto rate = static_cast<float>(work.rates[0]), epsilon = static_cast<float>(work.rates[2]);
    const auto fresh = static_cast<float>(1 - beta);
    const auto whole = static_cast<float>(1 - std::pow(beta, static_cast<double>(work.step)));
    for (size_t n = 0; n < ids.size(); ++n) {
        const float *sum = sums.data() + n * dim, decay = decays[n];
        float *row = work.rows + ids[n] * dim, *squares = work.squares + ids[n] * dim;
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) {
            squares[d] = squares[d] * decay + fresh * (sum[d] * sum[d]);
            row[d] -= rate * (sum[d] / (std::sqrt(squares[d] / whole) + epsilon));
        }
    }
}

}  // namespace

// (rows, squares, moved, slots, dim, ids, gradients, count, step, rates): see Moving
PyObject* move_rows(PyObject*, PyObject* const* args, Py_ssize_t count) {
    memrec::Arguments given("move_rows", args, count, 10);
    if (!given) return nullptr;
    Moving work{};
    work.rows = given.address<float>();
    work.squares = given.address<float>();
    work.moved = given.address<int64_t>();
    work.slots = given.address<int32_t>();
    work.dim = given.number();
    work.ids = given.address<const int64_t>();
    work.gradients = given.address<const float>();
    work.count = given.number();
    work.step = given.number();
    work.rates = given.address<const double>();
    return memrec::freely([&] { move(work); });
}
