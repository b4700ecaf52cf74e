// The encoder, once for every instruction set.
#pragma once

#include <algorithm>
#include <numeric>

#include "moments.h"
#include "nearest.h"
#include "points.h"
#include "solve.h"
#include "spectrum.h"

namespace memrec {
namespace {

template <class Isa>
class Search {
  public:
    static void code(const Coding& coding) {
        Search search(coding);
        std::fill(coding.codes, coding.codes + coding.rows.count * coding.stages, uint8_t{0});
        if (!coding.each_depth) std::fill(coding.distances, coding.distances + coding.rows.count, 0.0f);
        std::vector<int64_t> rows(static_cast<size_t>(coding.rows.count));
        for (int32_t depth = 0; depth <= coding.stages; ++depth) {
            if (!coding.depths && depth < coding.stages) continue;
            int64_t held = 0;
            for (int64_t row = 0; row < coding.rows.count; ++row)
                if (!coding.depths || coding.depths[row] == depth) rows[static_cast<size_t>(held++)] = row;
            const int64_t at_once = kPoints / coding.beam;
            for (int64_t first = 0; first < held; first += at_once) {
                const int64_t count = std::min(at_once, held - first), next = std::min(first + at_once, held);
                search.ahead_ = Ahead(coding.rows, rows.data() + next, std::min(at_once, held - next));
                search.code_block(&rows[static_cast<size_t>(first)], static_cast<int>(count), depth);
            }
        }
    }

    static void assign(const Assigning& task) {
        Points<Isa> points(task.rows);
        Nearest<Isa> nearest(task.rows.dim);
        Lines<float> block(static_cast<size_t>(kPoints * points.width_of_points()));
        Two found[kPoints];
        for (int64_t first = 0; first < task.rows.count; first += kPoints) {
            const int n = read_block(points, task.rows.count, first, block.data());
            int64_t next[kPoints];
            std::iota(next, next + kPoints, first + n);
            Ahead ahead(task.rows, next, std::min<int64_t>(kPoints, task.rows.count - first - n));
            for (int32_t b = 0; b < task.book_count; ++b) {
                nearest.find(task.books[b], block.data(), n, found, ahead);
                for (int i = 0; i < n; ++i) {
                    float& best = task.distances[first + i];
                    if (b && !(found[i].distance[0] < best)) continue;
                    best = found[i].distance[0];
                    task.nearest[first + i] = static_cast<int64_t>(b) * kMostEntries + found[i].entry[0];
                }
            }
        }
    }

    static void measure(const RowSource& rows, float* squared, float* widest) {
        Points<Isa> points(rows);
        Nearest<Isa> nearest(rows.dim);
        Lines<float> block(static_cast<size_t>(kPoints * points.width_of_points()));
        if (widest) *widest = 0;
        for (int64_t first = 0; first < rows.count; first += kPoints) {
            const int n = read_block(points, rows.count, first, block.data(), widest);
            nearest.measure(block.data(), n, squared + first);
        }
    }

    static void transform(const RowSource& rows, float* to, int64_t stride) {
        Points<Isa> points(rows);
        Lines<float> block(static_cast<size_t>(kPoints * points.width_of_points()));
        for (int64_t first = 0; first < rows.count; first += kPoints) {
            const int n = read_block(points, rows.count, first, block.data());
            for (int i = 0; i < n; ++i)
                std::memcpy(to + (first + i) * stride, &block[static_cast<size_t>(i * points.width_of_points())],
                            static_cast<size_t>(rows.dim) * 4);
        }
    }

  private:
    using Floats = typename Isa::Floats;

    explicit Search(const Coding& coding)
        : coding_(coding), points_(coding.rows), nearest_(coding.rows.dim), width_(points_.width_of_points()), ahead_(coding.rows, nullptr, 0),
          rest_(static_cast<size_t>(kPoints * width_)), next_(coding.beam > 1 ? rest_.size() : 0) {}

    static int read_block(Points<Isa>& points, int64_t count, int64_t first, float* block, float* widest = nullptr) {
        const int64_t n = std::min<int64_t>(kPoints, count - first);
        int64_t rows[kPoints];
        std::iota(rows, rows + n, first);
        points.read(rows, n, block, widest);
        return static_cast<int>(n);
    }

    void code_block(const int64_t* rows, int count, int32_t depth) {
        points_.read(rows, count, rest_.data());
        if (coding_.each_depth || depth == 0) {
            nearest_.measure(rest_.data(), count, distances_);
            for (int i = 0; i < count; ++i) coding_.distances[rows[i]] = distances_[i];
        }
        coding_.beam > 1 ? search_beam(rows, count, depth) : search_greedily(rows, count, depth);
    }

    void search_greedily(const int64_t* rows, int count, int32_t depth) {
        for (int32_t stage = 0; stage < depth; ++stage) {
            const Book& book = coding_.books[stage];
            nearest_.find(book, rest_.data(), count, found_, ahead_);
            for (int i = 0; i < count; ++i) {
                float* rest = &rest_[static_cast<size_t>(i * width_)];
                if (stage + 1 < depth) take(book, found_[i].entry[0], rest, rest);
                coding_.codes[rows[i] * coding_.stages + stage] = static_cast<uint8_t>(found_[i].entry[0]);
                if (coding_.each_depth) coding_.distances[(stage + 1) * coding_.rows.count + rows[i]] = found_[i].distance[0];
                else if (stage + 1 == depth) coding_.distances[rows[i]] = found_[i].distance[0];
            }
        }
    }

    void take(const Book& book, int32_t entry, const float* from, float* to) const {
        const float* values = &book.entries[static_cast<size_t>(entry) * static_cast<size_t>(width_)];
        for (int32_t k = 0; k < width_; k += 16) Isa::store(to + k, Isa::subtract(Isa::load(from + k), Isa::load(values + k)));
    }

    // The partial codes of a row lie side by side, `held` of them, nearest first.
    void search_beam(const int64_t* rows, int count, int32_t depth) {
        int held = 1;
        for (int32_t stage = 0; stage < depth; ++stage) {
            const Book& book = coding_.books[stage];
            nearest_.find(book, rest_.data(), count * held, found_, ahead_);
            const int kept = std::min(coding_.beam, held * std::min(2, book.size));
            for (int i = 0; i < count; ++i) extend(book, stage, i, held, kept, stage + 1 < depth);
            rest_.swap(next_);
            paths_.swap(next_paths_);
            held = kept;
        }
        for (int i = 0; i < count && depth; ++i) {
            std::memcpy(coding_.codes + rows[i] * coding_.stages, paths_[static_cast<size_t>(i * held)].codes, static_cast<size_t>(depth));
            coding_.distances[rows[i]] = distances_[i];
        }
    }

    struct Path {
        uint8_t codes[kMostCoded];
    };
    struct Step {
        float distance;
        int32_t parent, entry;
    };

    void extend(const Book& book, int32_t stage, int row, int held, int kept, bool goes_on) {
        Step steps[2 * kMostBeam];
        int count = 0;
        for (int parent = 0; parent < held; ++parent)
            for (int n = 0; n < std::min(2, book.size); ++n) {
                const Two& two = found_[row * held + parent];
                int place = count++;
                for (; place && two.distance[n] < steps[place - 1].distance; --place) steps[place] = steps[place - 1];
                steps[place] = {two.distance[n], parent, two.entry[n]};
            }
        for (int n = 0; n < kept; ++n) {
            const int from = row * held + steps[n].parent, to = row * kept + n;
            Path& path = next_paths_[static_cast<size_t>(to)];
            if (stage) path = paths_[static_cast<size_t>(from)];
            path.codes[stage] = static_cast<uint8_t>(steps[n].entry);
            if (goes_on) take(book, steps[n].entry, &rest_[static_cast<size_t>(from * width_)], &next_[static_cast<size_t>(to * width_)]);
        }
        distances_[row] = steps[0].distance;
    }

    const Coding& coding_;
    Points<Isa> points_;
    Nearest<Isa> nearest_;
    int32_t width_;
    Ahead ahead_;
    Lines<float> rest_, next_;
    std::vector<Path> paths_ = std::vector<Path>(kPoints), next_paths_ = std::vector<Path>(kPoints);
    Two found_[kPoints];
    float distances_[kPoints];
};

template <class Isa>
constexpr Encoder encoder_of(const char* name) {
    return {name, Search<Isa>::code, Search<Isa>::assign, Search<Isa>::measure, Search<Isa>::transform,
            solve_positive, sum_moment, find_spectrum};
}

}  // namespace
}  // namespace memrec
