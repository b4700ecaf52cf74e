// Positive definite systems in double, compiled for each instruction set: whatever is subtracted from one number is so in
// one order, and nothing is fused, so that all give the same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "prefetch.h"

namespace memrec {
namespace {

// What a block of rows changes below itself is taken in strips of columns, which stay in the first cache.
constexpr int64_t kBlock = 96, kStrip = 32, kAhead = 3;

// to -= factors[j] * rows[j], one j after the other; eight at a time, so that what is subtracted from is loaded once.
inline void subtract_rows(double* to, const double* rows, const double* factors, int64_t count, int64_t stride, int64_t n) {
    int64_t j = 0;
    for (; j + 8 <= count; j += 8) {
        const double a = factors[j], b = factors[j + 1], c = factors[j + 2], d = factors[j + 3];
        const double e = factors[j + 4], f = factors[j + 5], g = factors[j + 6], h = factors[j + 7];
        const double *p = rows + j * stride, *q = p + stride, *r = q + stride, *s = r + stride;
        const double *t = s + stride, *u = t + stride, *v = u + stride, *w = v + stride;
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) {
            const double half = (((to[k] - a * p[k]) - b * q[k]) - c * r[k]) - d * s[k];
            to[k] = (((half - e * t[k]) - f * u[k]) - g * v[k]) - h * w[k];
        }
    }
    for (; j < count; ++j) {
        const double factor = factors[j], *p = rows + j * stride;
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) to[k] -= factor * p[k];
    }
}

// The upper factor U of a matrix [n, n], of which the upper triangle is read and becomes it: matrix = U^T U.
class Factoring {
  public:
    Factoring(double* matrix, int64_t n)
        : matrix_(matrix), n_(n), factors_(static_cast<size_t>(n * kBlock)), strip_(kBlock * kStrip) {}

    bool run() {
        for (int64_t first = 0; first < n_; first += kBlock) {
            const int64_t last = std::min(first + kBlock, n_);
            if (!factor_block(first, last)) return false;
            for (int64_t column = last; column < n_; column += kStrip) {
                const int64_t width = std::min(kStrip, n_ - column);
                finish_strip(first, last, column, width);
                for (int64_t i = last; i < column + width; ++i) {
                    const int64_t skipped = std::max<int64_t>(0, i - column);
                    if (i + kAhead < column) fetch(row(i + kAhead) + column);
                    subtract_rows(row(i) + column + skipped, strip_.data() + skipped, factors_of(i), last - first, kStrip,
                                  width - skipped);
                }
            }
        }
        return true;
    }

  private:
    double* row(int64_t i) { return matrix_ + i * n_; }
    double* factors_of(int64_t i) { return factors_.data() + i * kBlock; }

    // Rows of the block as far as its own columns go; the factors of each row are those of its column above it.
    bool factor_block(int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            for (int64_t j = first; j < i; ++j) factors_of(i)[j - first] = row(j)[i];
            subtract_rows(row(i) + i, row(first) + i, factors_of(i), i - first, n_, last - i);
            if (!(row(i)[i] > 0)) return false;
            const double root = std::sqrt(row(i)[i]);
            roots_[i - first] = root;
            for (int64_t k = i; k < last; ++k) row(i)[k] /= root;
        }
        return true;
    }

    // The block's rows in some columns beyond it.
    void finish_strip(int64_t first, int64_t last, int64_t column, int64_t width) {
        for (int64_t i = first; i < last; ++i) {
            double* to = strip_.data() + (i - first) * kStrip;
            std::memcpy(to, row(i) + column, static_cast<size_t>(width) * sizeof *to);
            subtract_rows(to, strip_.data(), factors_of(i), i - first, kStrip, width);
            const double root = roots_[i - first];
            for (int64_t k = 0; k < width; ++k) to[k] /= root;
            std::memcpy(row(i) + column, to, static_cast<size_t>(width) * sizeof *to);
            for (int64_t k = 0; k < width; ++k) factors_of(column + k)[i - first] = to[k];
        }
    }

    static void fetch(const double* values) {
        for (int64_t k = 0; k < kStrip; k += 8) MEMREC_PREFETCH_NEAR(values + k);
    }

    double* matrix_;
    int64_t n_;
    std::vector<double> factors_, strip_;
    double roots_[kBlock];
};

// See encoder.h.
inline bool solve_positive(double* matrix, int64_t n, double* right, int64_t width) {
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < i; ++j) matrix[j * n + i] = matrix[i * n + j];
    if (!Factoring(matrix, n).run()) return false;
    std::vector<double> factors(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        double* own = right + i * width;
        for (int64_t j = 0; j < i; ++j) factors[static_cast<size_t>(j)] = matrix[j * n + i];
        subtract_rows(own, right, factors.data(), i, width, width);
        for (int64_t k = 0; k < width; ++k) own[k] /= matrix[i * n + i];
    }
    for (int64_t i = n - 1; i >= 0; --i) {
        double* own = right + i * width;
        subtract_rows(own, own + width, matrix + i * n + i + 1, n - i - 1, width, width);
        for (int64_t k = 0; k < width; ++k) own[k] /= matrix[i * n + i];
    }
    return true;
}

}  // namespace
}  // namespace memrec
