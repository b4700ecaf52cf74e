// The two nearest entries of a book for each of some points: screened in integers, decided among four exactly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "points.h"
#include "products/tiles.h"

namespace memrec {
namespace {

constexpr int kPoints = 64;  // that are screened together

struct Two {
    int32_t entry[2];
    float distance[2];  // squared; infinite where there is no second
};

template <class Isa>
class Nearest {
  public:
    using Floats = typename Isa::Floats;

    explicit Nearest(int32_t dim)
        : width_((dim + 15) / 16 * 16), depth_((dim + kGroup - 1) / kGroup * kGroup), tiles_(depth_),
          bytes_(tiles_.depth() * kColumn), panels_(static_cast<size_t>(kPoints / kPanelColumns * bytes_)),
          rounded_(static_cast<size_t>(16 * width_)) {}

    // points [count, width], at most kPoints of them.
    void find(const Book& book, const float* points, int count, Two* found, Ahead& ahead) {
        if (book.quick_rows) screen(book, points, count, ahead);
        for (int i = 0; i < count; ++i) {
            const float* keys = keys_[i / 16] + i % 16;
            int32_t entries[4];
            for (int c = 0; c < 4; ++c) entries[c] = book.quick_rows ? entry_of(keys[16 * c]) : c;
            decide(book, points + static_cast<int64_t>(i) * width_, entries, found[i]);
        }
    }

    // |point|^2 of each, in the order of all distances.
    void measure(const float* points, int count, float* squared) const {
        for (int i = 0; i < count; i += 4) {
            Floats sums[4];
            float four[4];
            for (int n = 0; n < 4; ++n) {
                sums[n] = Isa::fill(0);
                if (i + n >= count) continue;
                for (int32_t k = 0; k < width_; k += 16) {
                    const Floats values = Isa::load(points + static_cast<int64_t>(i + n) * width_ + k);
                    sums[n] = Isa::add(sums[n], Isa::multiply_floats(values, values));
                }
            }
            Isa::fold_four(four, sums[0], sums[1], sums[2], sums[3]);
            for (int n = 0; n < 4 && i + n < count; ++n) squared[i + n] = four[n];
        }
    }

  private:
    static constexpr uint32_t kLabel = 255;
    static constexpr int kColumn = Isa::in_pairs ? 2 * kPanelColumns : kPanelColumns;  // bytes of a panel per number

    static int32_t entry_of(float key) {
        uint32_t bits;
        std::memcpy(&bits, &key, 4);
        return static_cast<int32_t>(bits & kLabel);
    }

    void screen(const Book& book, const float* points, int count, Ahead& ahead) {
        constexpr int wide = Isa::panels_at_once;
        const int panels = (count + 15) / 16;
        for (int p = 0; p < panels; ++p) round_points(points + static_cast<int64_t>(16 * p) * width_, count - 16 * p, p);
        if constexpr (Isa::Cut::has_tiles)
            if (book.quick_rows % 16 == 0) return score_in_tiles(book, panels, ahead);
        int p = 0;
        for (; p + wide <= panels; p += wide) score<wide>(book, p, ahead);
        for (; p < panels; ++p) score<1>(book, p, ahead);
    }

    // Up to 16 points as a panel, each in units of a 127th of its largest magnitude.
    void round_points(const float* points, int count, int panel) {
        if (count > 16) count = 16;
        for (int i = 0; i < 16; ++i) {
            const float* point = points + static_cast<int64_t>(i) * width_;
            Floats most = Isa::fill(0);
            if (i < count)
                for (int32_t k = 0; k < width_; k += 16) most = Isa::higher(most, Isa::magnitude(Isa::load(point + k)));
            const float largest = Isa::largest(most), inverse = largest > 0 ? 127 / largest : 0;
            units_[16 * panel + i] = largest / 127;
            int8_t* to = &rounded_[static_cast<size_t>(i) * static_cast<size_t>(width_)];
            if (i < count)
                for (int32_t k = 0; k < width_; k += 16)
                    Isa::round(to + k, Isa::multiply_floats(Isa::load(point + k), Isa::fill(inverse)));
            else
                std::memset(to, 0, static_cast<size_t>(width_));
        }
        int8_t* to = &panels_[static_cast<size_t>(panel * bytes_)];
        int64_t k = 0;
        for (; k + 16 <= depth_; k += 16) Isa::copy_four_groups(&rounded_[static_cast<size_t>(k)], width_, to + k * kColumn);
        if (k < depth_) Isa::copy_rest(&rounded_[static_cast<size_t>(k)], width_, depth_ - k, to + k * kColumn);
        // What follows up to the panel's end stays zero.
    }

    static auto quick_row(const Book& book, int32_t entry) {
        const auto at = static_cast<size_t>(entry * book.quick_stride);
        if constexpr (Isa::in_pairs) return static_cast<const int16_t*>(&book.wide[at]);
        else return static_cast<const int8_t*>(&book.quick[at]);
    }

    // A score is half the entry's square less its product with the point; its lowest bits are the entry's number.
    template <int P>
    void score(const Book& book, int panel, Ahead& ahead) {
        constexpr int R = Isa::rows_at_once;
        const int8_t* columns = &panels_[static_cast<size_t>(panel * bytes_)];
        Floats unit[P], lowest[P][4];
        for (int p = 0; p < P; ++p) {
            unit[p] = Isa::multiply_floats(Isa::load(units_ + 16 * (panel + p)), Isa::fill(book.unit));
            for (Floats& one : lowest[p]) one = Isa::fill(std::numeric_limits<float>::max());
        }
        for (int32_t entry = 0; entry < book.quick_rows; entry += R) {
            ahead.fetch_one();
            typename Isa::Ints tile[R][P];
            Isa::template multiply_groups<R, P>(quick_row(book, entry), book.quick_stride,
                                                &book.sums[static_cast<size_t>(entry)], columns, bytes_, depth_, tile);
            for (int p = 0; p < P; ++p) {
                Floats keys[R];
                for (int r = 0; r < R; ++r) {
                    const Floats product = Isa::multiply_floats(Isa::to_floats(tile[r][p]), unit[p]);
                    const Floats exact = Isa::subtract(Isa::fill(book.half_norms[static_cast<size_t>(entry + r)]), product);
                    keys[r] = Isa::label(exact, static_cast<uint32_t>(entry + r), kLabel);
                }
                keep_lowest(keys, lowest[p]);
            }
        }
        for (int p = 0; p < P; ++p)
            for (int c = 0; c < 4; ++c) Isa::store(keys_[panel + p] + 16 * c, lowest[p][c]);
    }

    // The same scores, from products of 32 entries and 32 points at a time; the next ones are under way while these are taken.
    void score_in_tiles(const Book& book, int panels, Ahead& ahead) {
        for (int p = 0; p < panels; ++p) {
            Isa::store(units_ + 16 * p, Isa::multiply_floats(Isa::load(units_ + 16 * p), Isa::fill(book.unit)));
            for (int c = 0; c < 4; ++c) Isa::store(keys_[p] + 16 * c, Isa::fill(std::numeric_limits<float>::max()));
        }
        const int pairs = (panels + 1) / 2, steps = (book.quick_rows + 31) / 32 * pairs;
        for (int step = 0; step <= steps; ++step) {
            if (step < steps) {
                const int entry = step / pairs * 32, p = step % pairs * 2;
                tiles_.multiply(&book.quick[static_cast<size_t>(entry * book.quick_stride)], book.quick_stride,
                                entry + 16 < book.quick_rows, &panels_[static_cast<size_t>(p * bytes_)], bytes_,
                                std::min(2, panels - p), products_[step % 2]);
            }
            if (!step) continue;
            const int before = step - 1, entry = before / pairs * 32, p = before % pairs * 2;
            for (int half = 0; half < 2 && entry + 16 * half < book.quick_rows; ++half)
                for (int n = 0; n < 2 && p + n < panels; ++n)
                    take_scores(book, entry + 16 * half, p + n, products_[before % 2] + 512 * half + 256 * n, ahead);
        }
    }

    // Scores of 16 entries and a panel's points into the lowest four.
    void take_scores(const Book& book, int32_t entry, int panel, const int32_t* products, Ahead& ahead) {
        const Floats unit = Isa::load(units_ + 16 * panel);
        Floats lowest[4];
        for (int c = 0; c < 4; ++c) lowest[c] = Isa::load(keys_[panel] + 16 * c);
        for (int first = 0; first < 16; first += 8) {
            ahead.fetch_one();
            Floats keys[8];
            for (int r = 0; r < 8; ++r) {
                const int32_t own = entry + first + r;
                const Floats product = Isa::multiply_floats(Isa::to_floats(tiles_.load(products + 16 * (first + r))), unit);
                const Floats exact = Isa::subtract(Isa::fill(book.half_norms[static_cast<size_t>(own)]), product);
                keys[r] = Isa::label(exact, static_cast<uint32_t>(own), kLabel);
            }
            keep_lowest(keys, lowest);
        }
        for (int c = 0; c < 4; ++c) Isa::store(keys_[panel] + 16 * c, lowest[c]);
    }

    MEMREC_ALWAYS static void order(Floats& low, Floats& high) {
        const Floats before = low;
        low = Isa::lower(before, high);
        high = Isa::higher(before, high);
    }

    // One key after the other into the lowest four, which stay sorted.
    template <int R>
    MEMREC_ALWAYS static void keep_lowest(Floats (&keys)[R], Floats (&lowest)[4]) {
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < 4; ++c) order(lowest[c], keys[r]);
    }

    // Eight at once take fewer steps: pairs, fours, the lower half of both, and that of those and what is held.
    MEMREC_ALWAYS static void keep_lowest(Floats (&keys)[8], Floats (&lowest)[4]) {
        for (int r = 0; r < 8; r += 2) order(keys[r], keys[r + 1]);
        for (int r = 0; r < 8; r += 4) {
            order(keys[r], keys[r + 2]);
            order(keys[r + 1], keys[r + 3]);
            order(keys[r + 1], keys[r + 2]);
        }
        Floats four[4];
        for (int c = 0; c < 4; ++c) four[c] = Isa::lower(keys[c], keys[7 - c]);
        sort_halves(four);
        for (int c = 0; c < 4; ++c) lowest[c] = Isa::lower(lowest[c], four[3 - c]);
        sort_halves(lowest);
    }

    // Sorts four that rise and then fall, or the other way round.
    MEMREC_ALWAYS static void sort_halves(Floats (&four)[4]) {
        order(four[0], four[2]);
        order(four[1], four[3]);
        order(four[0], four[1]);
        order(four[2], four[3]);
    }

    void decide(const Book& book, const float* point, const int32_t* entries, Two& two) const {
        const float* candidates[4];
        for (int c = 0; c < 4; ++c)
            candidates[c] = &book.entries[static_cast<size_t>(entries[c] < book.size ? entries[c] : 0) * static_cast<size_t>(width_)];
        Floats sums[4] = {Isa::fill(0), Isa::fill(0), Isa::fill(0), Isa::fill(0)};
        for (int32_t k = 0; k < width_; k += 16) {
            const Floats values = Isa::load(point + k);
            for (int c = 0; c < 4; ++c) {
                const Floats rest = Isa::subtract(values, Isa::load(candidates[c] + k));
                sums[c] = Isa::add(sums[c], Isa::multiply_floats(rest, rest));
            }
        }
        float distances[4];
        Isa::fold_four(distances, sums[0], sums[1], sums[2], sums[3]);
        uint64_t keys[4];
        for (int c = 0; c < 4; ++c) keys[c] = entries[c] < book.size ? key_of(distances[c], entries[c]) : kNone;
        const uint64_t low = std::min(keys[0], keys[1]), high = std::max(keys[0], keys[1]);
        const uint64_t other_low = std::min(keys[2], keys[3]), other_high = std::max(keys[2], keys[3]);
        put(std::min(low, other_low), two, 0);
        put(std::min(std::max(low, other_low), std::min(high, other_high)), two, 1);
    }

    // Distances are not negative, so that their bits are in their order; then entries are.
    static constexpr uint64_t kNone = uint64_t{0x7F800000} << 32;

    static uint64_t key_of(float distance, int32_t entry) {
        uint32_t bits;
        std::memcpy(&bits, &distance, 4);
        return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(entry);
    }

    static void put(uint64_t key, Two& two, int place) {
        const auto bits = static_cast<uint32_t>(key >> 32);
        two.entry[place] = static_cast<int32_t>(static_cast<uint32_t>(key));
        std::memcpy(&two.distance[place], &bits, 4);
    }

    int32_t width_;
    int64_t depth_;
    typename Isa::Cut tiles_;
    int64_t bytes_;
    Lines<int8_t> panels_, rounded_;
    alignas(64) float units_[kPoints];
    alignas(64) float keys_[kPoints / 16][64];
    alignas(64) int32_t products_[2][Isa::Cut::has_tiles ? 1024 : 16];
};

}  // namespace
}  // namespace memrec
