#include "sums.h"

#include <algorithm>
#include <cmath>

namespace memrec {
namespace {

constexpr int64_t kBlock = 48;

void add_scaled(double* to, const float* values, double weight, int64_t dim) {
#pragma omp simd
    for (int64_t k = 0; k < dim; ++k) to[k] += weight * values[k];
}

void subtract_scaled(double* to, const double* values, double factor, int64_t n) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) to[k] -= factor * values[k];
}

// Four rows at a time, so that what is subtracted from is loaded once.
void subtract_rows(double* to, const double* rows, const double* factors, int64_t count, int64_t stride, int64_t n) {
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
        const double a = factors[j], b = factors[j + 1], c = factors[j + 2], d = factors[j + 3];
        const double *p = rows + j * stride, *q = p + stride, *r = q + stride, *s = r + stride;
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) to[k] = (((to[k] - a * p[k]) - b * q[k]) - c * r[k]) - d * s[k];
    }
    for (; j < count; ++j) subtract_scaled(to, rows + j * stride, factors[j], n);
}

}  // namespace

void add_by_nearest(const float* points, int64_t count, int64_t dim, const float* weights, const int64_t* nearest,
                    double* masses, double* sums) {
    for (int64_t i = 0; i < count; ++i) {
        masses[nearest[i]] += weights[i];
        add_scaled(sums + nearest[i] * dim, points + i * dim, weights[i], dim);
    }
}

void square_norms(const float* rows, int64_t count, int64_t dim, double* norms) {
    for (int64_t i = 0; i < count; ++i) {
        const float* row = rows + i * dim;
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

// Rows of the upper factor U = L^T, matrix = U^T U, built top down: each is a row of the matrix less the rows above it.
bool solve_positive(double* matrix, int64_t n, double* right, int64_t width) {
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < i; ++j) matrix[j * n + i] = matrix[i * n + j];
    for (int64_t first = 0; first < n; first += kBlock) {
        const int64_t last = std::min(first + kBlock, n);
        for (int64_t i = first; i < last; ++i) {
            double* row = matrix + i * n;
            for (int64_t j = first; j < i; ++j) subtract_scaled(row + i, matrix + j * n + i, matrix[j * n + i], n - i);
            if (!(row[i] > 0)) return false;
            const double root = std::sqrt(row[i]);
            for (int64_t k = i; k < n; ++k) row[k] /= root;
        }
        for (int64_t i = last; i < n; ++i) {
            double factors[kBlock];
            for (int64_t j = first; j < last; ++j) factors[j - first] = matrix[j * n + i];
            subtract_rows(matrix + i * n + i, matrix + first * n + i, factors, last - first, n, n - i);
        }
    }
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) subtract_scaled(right + i * width, right + j * width, matrix[j * n + i], width);
        for (int64_t k = 0; k < width; ++k) right[i * width + k] /= matrix[i * n + i];
    }
    for (int64_t i = n - 1; i >= 0; --i) {
        for (int64_t j = i + 1; j < n; ++j) subtract_scaled(right + i * width, right + j * width, matrix[i * n + j], width);
        for (int64_t k = 0; k < width; ++k) right[i * width + k] /= matrix[i * n + i];
    }
    return true;
}

}  // namespace memrec
