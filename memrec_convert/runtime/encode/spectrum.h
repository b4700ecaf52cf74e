// Eigenvalues and eigenvectors of a symmetric matrix in double, compiled for each instruction set: every sum has one order and
// nothing is fused, so that all give the same bits.
//
// Reflections leave three diagonals, and implicit QL steps one (Golub and Van Loan, Matrix Computations, 8.3).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace memrec {
namespace {

inline void add_scaled(double* to, const double* from, double factor, int64_t n) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) to[k] += factor * from[k];
}

class Spectrum {
  public:
    // The matrix [n, n] becomes the eigenvectors, a row each.
    Spectrum(double* matrix, int64_t n) : matrix_(matrix), n_(n), size_(static_cast<size_t>(n)), diagonal_(size_), beside_(size_) {}

    // The eigenvalues, rising; false where numbers are not finite.
    bool find(double* values) {
        double most = 0;
        for (int64_t i = 0; i < n_ * n_; ++i) {
            if (!std::isfinite(matrix_[i])) return false;
            most = std::max(most, std::fabs(matrix_[i]));
        }
        int power = 0;
        std::frexp(most, &power);  // squares of the numbers stay in range
        for (int64_t i = 0; i < n_ * n_; ++i) matrix_[i] = std::ldexp(matrix_[i], -power);
        reduce();
        for (int64_t i = 0; i < n_; ++i) {
            const double size = std::fabs(diagonal_[static_cast<size_t>(i)]) + std::fabs(beside_[static_cast<size_t>(i)]);
            least_ = std::max(least_, std::numeric_limits<double>::epsilon() * size);
        }
        for (int64_t i = 0; i < n_; ++i)
            if (!split_off(i)) return false;
        sort();
        bool finite = true;
        for (int64_t i = 0; i < n_; ++i) {
            values[i] = std::ldexp(diagonal_[static_cast<size_t>(i)], power);
            finite &= std::isfinite(values[i]);
        }
        return finite;
    }

  private:
    static constexpr int kMostSteps = 1000;
    static constexpr double kNothing = 1e-60;  // a square beside the matrix, whose largest number is at least a half

    double* row(int64_t i) { return matrix_ + i * n_; }

    // Leaves the diagonal and what is beside it, and in the matrix the transpose of what it was turned by.
    void reduce() {
        std::vector<double> axes(size_ * size_), factors(size_), image(size_);
        for (int64_t k = 0; k + 2 < n_; ++k) {
            const int64_t first = k + 1, m = n_ - first;
            double* axis = &axes[static_cast<size_t>(k * n_ + first)];
            std::copy(row(k) + first, row(k) + n_, axis);
            double tail = 0;
            for (int64_t j = 1; j < m; ++j) tail += axis[j] * axis[j];
            beside_[static_cast<size_t>(k)] = axis[0];
            if (tail < kNothing) continue;
            const double length = std::sqrt(axis[0] * axis[0] + tail), turned = axis[0] > 0 ? -length : length;
            const double factor = 1 / (length * (length + std::fabs(axis[0])));
            axis[0] -= turned;
            beside_[static_cast<size_t>(k)] = turned;
            factors[static_cast<size_t>(k)] = factor;
            turn(first, axis, factor, image.data());
        }
        if (n_ > 1) beside_[size_ - 2] = row(n_ - 2)[n_ - 1];
        for (int64_t i = 0; i < n_; ++i) diagonal_[static_cast<size_t>(i)] = row(i)[i];
        gather(axes, factors, image);
    }

    // Reflects the matrix from row and column `first` on, on both sides.
    void turn(int64_t first, const double* axis, double factor, double* image) {
        const int64_t m = n_ - first;
        std::fill(image, image + m, 0.0);
        for (int64_t j = 0; j < m; ++j) add_scaled(image, row(first + j) + first, axis[j], m);
        double along = 0;
        for (int64_t j = 0; j < m; ++j) {
            image[j] *= factor;
            along += image[j] * axis[j];
        }
        add_scaled(image, axis, -factor / 2 * along, m);
        for (int64_t i = 0; i < m; ++i) {
            double* own = row(first + i) + first;
            const double a = axis[i], b = image[i];
#pragma omp simd
            for (int64_t j = 0; j < m; ++j) own[j] -= a * image[j] + b * axis[j];
        }
    }

    // The product of all reflections, transposed.
    void gather(const std::vector<double>& axes, const std::vector<double>& factors, std::vector<double>& image) {
        std::fill(matrix_, matrix_ + n_ * n_, 0.0);
        for (int64_t i = 0; i < n_; ++i) row(i)[i] = 1;
        for (int64_t k = n_ - 3; k >= 0; --k) {
            const int64_t first = k + 1, m = n_ - first;
            const double *axis = &axes[static_cast<size_t>(k * n_ + first)], factor = factors[static_cast<size_t>(k)];
            if (factor == 0) continue;
            std::fill(image.begin(), image.begin() + m, 0.0);
            for (int64_t j = 0; j < m; ++j) add_scaled(image.data(), row(first + j) + first, axis[j], m);
            for (int64_t j = 0; j < m; ++j) add_scaled(row(first + j) + first, image.data(), -factor * axis[j], m);
        }
        for (int64_t i = 0; i < n_; ++i)
            for (int64_t j = 0; j < i; ++j) std::swap(row(i)[j], row(j)[i]);
    }

    // Steps until number i of the diagonal stands alone.
    bool split_off(int64_t i) {
        for (int step = 0; step <= kMostSteps; ++step) {
            int64_t last = i;
            while (last + 1 < n_ && !is_small(last)) ++last;
            if (last == i) return true;
            step_from(i, last);
        }
        return false;
    }

    // Beside the largest numbers of the matrix, whose rounding is no smaller.
    bool is_small(int64_t i) const { return std::fabs(beside_[static_cast<size_t>(i)]) <= least_; }

    // One implicit QL step on the rows from first to last, shifted by the nearer eigenvalue of the two at its start.
    void step_from(int64_t first, int64_t last) {
        double *d = diagonal_.data(), *e = beside_.data();
        const double half = (d[first + 1] - d[first]) / (2 * e[first]), root = std::sqrt(half * half + 1);
        double bulge = d[last] - d[first] + e[first] / (half + (half < 0 ? -root : root));
        double sine = 1, cosine = 1, carried = 0;
        for (int64_t k = last - 1; k >= first; --k) {
            const double above = sine * e[k], across = cosine * e[k], length = std::sqrt(above * above + bulge * bulge);
            e[k + 1] = length;
            if (length == 0) {  // splits here
                d[k + 1] -= carried;
                e[last] = 0;
                return;
            }
            sine = above / length;
            cosine = bulge / length;
            const double shifted = d[k + 1] - carried, mixed = (d[k] - shifted) * sine + 2 * cosine * across;
            carried = sine * mixed;
            d[k + 1] = shifted + carried;
            bulge = cosine * mixed - across;
            rotate(row(k), row(k + 1), sine, cosine);
        }
        d[first] -= carried;
        e[first] = bulge;
        e[last] = 0;
    }

    void rotate(double* upper, double* lower, double sine, double cosine) const {
#pragma omp simd
        for (int64_t j = 0; j < n_; ++j) {
            const double a = upper[j], b = lower[j];
            lower[j] = sine * a + cosine * b;
            upper[j] = cosine * a - sine * b;
        }
    }

    void sort() {
        std::vector<int64_t> order(size_);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
            return diagonal_[static_cast<size_t>(a)] < diagonal_[static_cast<size_t>(b)];
        });
        const std::vector<double> rows(matrix_, matrix_ + n_ * n_), values = diagonal_;
        for (int64_t i = 0; i < n_; ++i) {
            const int64_t from = order[static_cast<size_t>(i)];
            diagonal_[static_cast<size_t>(i)] = values[static_cast<size_t>(from)];
            std::copy(rows.begin() + from * n_, rows.begin() + (from + 1) * n_, row(i));
        }
    }

    double* matrix_;
    int64_t n_;
    size_t size_;
    std::vector<double> diagonal_, beside_;
    double least_ = 0;
};

// See encoder.h.
inline bool find_spectrum(double* matrix, int64_t n, double* values) { return Spectrum(matrix, n).find(values); }

}  // namespace
}  // namespace memrec
