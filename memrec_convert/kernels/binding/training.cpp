#include "training.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "arguments.h"
#include "lookup/simd_scalar.h"

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
    const auto seen = static_cast<float>(1 - std::pow(beta, static_cast<double>(work.step)));
    for (size_t n = 0; n < ids.size(); ++n) {
        const float *sum = sums.data() + n * dim, decay = decays[n];
        float *row = work.rows + ids[n] * dim, *squares = work.squares + ids[n] * dim;
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) {
            squares[d] = squares[d] * decay + fresh * (sum[d] * sum[d]);
            row[d] -= rate * (sum[d] / (std::sqrt(squares[d] / seen) + epsilon));
        }
    }
}

// The half (IEEE 754 binary16) nearest to a positive float of at most 65504, ties to even.
uint16_t to_half(float value) {
    constexpr float kLeastNormal = 6.103515625e-5f;
    if (value < kLeastNormal) return static_cast<uint16_t>(std::nearbyint(value * 16777216.0f));  // units of 2**-24
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits += 0xFFF + (bits >> 13 & 1);
    return static_cast<uint16_t>((bits >> 13) - (112 << 10));
}

// The scale of a row of int8 codes, as encoding/codecs/int8.py chooses it.
float choose_scale(float largest) {
    constexpr float kMost = 65504.0f;
    const float wanted = largest / 127;
    const uint16_t half = to_half(wanted < kMost ? wanted : kMost);
    const float scale = memrec::half_to_float(half);
    return largest > 127.5f * scale && scale < kMost ? memrec::half_to_float(static_cast<uint16_t>(half + 1)) : scale;
}

constexpr float kWhole = 12582912.0f;  // of this size floats are whole numbers, to the nearest of which a sum is rounded

void round_rows(const float* rows, int64_t count, int64_t dim, float* out) {
    for (int64_t n = 0; n < count; ++n, rows += dim, out += dim) {
        float largest = 0;
        bool finite = true;
        for (int64_t d = 0; d < dim; ++d) {
            largest = std::max(largest, std::fabs(rows[d]));
            finite &= std::isfinite(rows[d]);
        }
        if (!finite) {  // left for whoever checks trained rows
            std::copy(rows, rows + dim, out);
            continue;
        }
        const float scale = choose_scale(largest), divisor = scale > 0 ? scale : 1.0f;
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) {
            const float code = std::min(std::max(rows[d] / divisor, -127.0f), 127.0f);
            out[d] = (code + kWhole - kWhole) * scale;
        }
    }
}

}  // namespace

// (rows, count, dim, out): what int8 rows would hold of them
PyObject* round_int8(PyObject*, PyObject* const* args, Py_ssize_t count) {
    memrec::Arguments given("round_int8", args, count, 4);
    if (!given) return nullptr;
    const auto* rows = given.address<const float>();
    const int64_t n = given.number(), dim = given.number();
    auto* out = given.address<float>();
    return memrec::freely([&] { round_rows(rows, n, dim, out); });
}

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
