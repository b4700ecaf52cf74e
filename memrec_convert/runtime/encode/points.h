// Rows of a source as points: floats, less the centre, times the metric, a few at a time, padded to whole vectors.
#pragma once

#include <cstring>
#include <vector>

#include "encoder.h"
#include "lookup/simd_scalar.h"
#include "lookup/tables.h"
#include "prefetch.h"
#include "products/tiles.h"

namespace memrec {
namespace {

// The rows that are read next: fetched while others are searched for, one by one, as often as that is asked.
class Ahead {
  public:
    Ahead(const RowSource& source, const int64_t* rows, int64_t count)
        : data_(static_cast<const char*>(source.data)), element_(source.kind == RowKind::fp32 ? 4 : 2),
          stride_(source.stride * element_), bytes_(source.dim * element_), rows_(rows), count_(count) {}

    void fetch_one() {
        if (!count_) return;
        const char* row = data_ + *rows_ * stride_;
        for (int64_t byte = 0; byte < bytes_; byte += kLineBytes) MEMREC_PREFETCH_NEAR(row + byte);
        ++rows_, --count_;
    }

  private:
    const char* data_;
    int64_t element_, stride_, bytes_;
    const int64_t* rows_;
    int64_t count_;
};

template <class Isa>
class Points {
  public:
    using Floats = typename Isa::Floats;

    explicit Points(const RowSource& source) : source_(source), width_((source.dim + 15) / 16 * 16) {
        centre_.assign(width(), 0);  // with `others` a copy of the one in turn, where that has to be padded
        if (source.centre) std::memcpy(centre_.data(), source.centre, static_cast<size_t>(source.dim) * 4);
        if (!source.metric) return;
        metric_.assign(static_cast<size_t>(source.dim) * width(), 0);
        for (size_t k = 0; k < static_cast<size_t>(source.dim); ++k)
            std::memcpy(&metric_[k * width()], source.metric + k * static_cast<size_t>(source.dim),
                        static_cast<size_t>(source.dim) * 4);
        plain_.assign(kAtOnce * width(), 0);
    }

    int32_t width_of_points() const { return width_; }

    // The points of these rows, [count, width]; widest grows to the largest |row - centre|.
    void read(const int64_t* rows, int64_t count, float* points, float* widest = nullptr) {
        for (int64_t first = 0; first < count; first += kAtOnce) {
            const int64_t n = count - first < kAtOnce ? count - first : kAtOnce;
            float* to = metric_.empty() ? points + first * width_ : plain_.data();
            for (int64_t i = 0; i < n; ++i) read_row(rows[first + i], to + i * width_);
            if (widest) *widest = widest_of(to, n * width_, *widest);
            if (!metric_.empty()) transform(to, n, points + first * width_);
        }
    }

  private:
    static constexpr int kAtOnce = 16, kTile = Isa::rows_at_once >= 8 ? 4 : 2;

    size_t width() const { return static_cast<size_t>(width_); }

    void read_row(int64_t row, float* to) {
        const int64_t dim = source_.dim, at = row * source_.stride;
        if (source_.kind == RowKind::fp32) {
            const float* from = static_cast<const float*>(source_.data) + at;
            if (dim == width_) return subtract(from, less_of(row), to);
            std::memcpy(to, from, static_cast<size_t>(dim) * 4);
        } else {
            const uint16_t* halves = static_cast<const uint16_t*>(source_.data) + at;
            const bool is_bf16 = source_.kind == RowKind::bf16;
            for (int64_t k = 0; k < dim; ++k) to[k] = is_bf16 ? from_bits(uint32_t{halves[k]} << 16) : half_to_float(halves[k]);
        }
        for (int64_t k = dim; k < width_; ++k) to[k] = 0;
        subtract(to, less_of(row), to);
    }

    // What is subtracted from a row, padded with zeros.
    const float* less_of(int64_t row) {
        if (!source_.others) return centre_.data();
        const float* other = source_.others + row * source_.dim;
        if (source_.dim == width_) return other;
        std::memcpy(centre_.data(), other, static_cast<size_t>(source_.dim) * 4);
        return centre_.data();
    }

    void subtract(const float* from, const float* less, float* to) const {
        for (int32_t k = 0; k < width_; k += 16) Isa::store(to + k, Isa::subtract(Isa::load(from + k), Isa::load(less + k)));
    }

    static float widest_of(const float* values, int64_t count, float before) {
        Floats most = Isa::fill(before);
        for (int64_t i = 0; i < count; i += 16) most = Isa::higher(most, Isa::magnitude(Isa::load(values + i)));
        return Isa::largest(most);
    }

    // Every sum over k is taken in the order of k, whatever the tile.
    void transform(const float* rows, int64_t count, float* to) const {
        for (int64_t i = 0; i < count;) {
            const bool whole = i + kTile <= count;
            for (int32_t k = 0; k < width_;) {
                const bool wide = k + 16 * kTile <= width_;
                if (whole && wide) tile<kTile, kTile>(rows + i * width_, k, to + i * width_);
                else if (whole) tile<kTile, 1>(rows + i * width_, k, to + i * width_);
                else tile<1, 1>(rows + i * width_, k, to + i * width_);
                k += 16 * (whole && wide ? kTile : 1);
            }
            i += whole ? kTile : 1;
        }
    }

    template <int R, int V>
    MEMREC_ALWAYS void tile(const float* rows, int32_t column, float* to) const {
        Floats sums[R][V];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) sums[r][v] = Isa::fill(0);
        for (int32_t k = 0; k < source_.dim; ++k) {
            const float* metric = &metric_[static_cast<size_t>(k) * width() + static_cast<size_t>(column)];
            Floats entries[V];
            for (int v = 0; v < V; ++v) entries[v] = Isa::load(metric + 16 * v);
            for (int r = 0; r < R; ++r) {
                const Floats value = Isa::fill(rows[r * width_ + k]);
                for (int v = 0; v < V; ++v) sums[r][v] = Isa::add(sums[r][v], Isa::multiply_floats(value, entries[v]));
            }
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) Isa::store(to + r * width_ + column + 16 * v, sums[r][v]);
    }

    RowSource source_;
    int32_t width_;
    Lines<float> centre_, metric_, plain_;
};

}  // namespace
}  // namespace memrec
