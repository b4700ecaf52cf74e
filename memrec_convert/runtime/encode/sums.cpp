#include "sums.h"

namespace memrec {
namespace {

void add_scaled(double* to, const float* values, double weight, int64_t dim) {
#pragma omp simd
    for (int64_t k = 0; k < dim; ++k) to[k] += weight * values[k];
}

}  // namespace

void add_by_nearest(const float* points, int64_t count, int64_t dim, const float* weights, const int64_t* nearest,
                    double* masses, double* sums) {
    for (int64_t i = 0; i < count; ++i) {
        masses[nearest[i]] += weights[i];
        add_scaled(sums + nearest[i] * dim, points + i * dim, weights[i], dim);
    }
}

void square_norms(const float* rows, int64_t count, int64_t dim, int64_t stride, double* norms) {
    for (int64_t i = 0; i < count; ++i) {
        const float* row = rows + i * stride;
        double sums[8] = {};
        int64_t k = 0;
        for (; k + 8 <= dim; k += 8) {
#pragma omp simd
            for (int64_t j = 0; j < 8; ++j) sums[j] += static_cast<double>(row[k + j]) * row[k + j];
        }
        for (; k < dim; ++k) sums[k % 8] += static_cast<double>(row[k]) * row[k];
        for (int half = 4; half; half /= 2)
            for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
        norms[i] = sums[0];
    }
}

void add_to_normal(const Named& named, double* normal, double* right) {
    const int64_t entries = named.firsts[named.stages];
    for (int64_t i = 0; i < named.count; ++i) {
        const uint8_t* codes = named.codes + i * named.stages;
        const double weight = named.weights[i];
        for (int64_t s = 0; s < named.depths[i]; ++s) {
            const int64_t entry = named.firsts[s] + codes[s];
            add_scaled(right + entry * named.dim, named.rows + i * named.dim, weight, named.dim);
            for (int64_t t = 0; t <= s; ++t) normal[entry * entries + named.firsts[t] + codes[t]] += weight;
        }
    }
}

}  // namespace memrec
