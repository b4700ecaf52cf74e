// Lookups over the lanes of one instruction set `Isa`. Each instruction set's own file includes this one, compiled for
// that set.
//
// Work is cut into pieces of at most kSlots lookups, and a piece goes through four steps: read, find buckets, find places,
// write. Several pieces are under way, each one step behind the next, so that what one step asks for arrives while the
// others compute.
#pragma once

#include <chrono>

#include "find.h"
#include "write.h"

namespace memrec {
namespace {

constexpr int kUnderWay = 4;  // pieces
constexpr int kFew = 20;      // fewer samples than this: the tokens of all are asked for before the first is summed

template <class Isa>
class Lookup {
  public:
    // Pieces [first, last) of the cut.
    static void run(const Request& request, const Cut& cut, int64_t first, int64_t last) {
        for (; cut.any_bags && first < last; ++first) {
            const Piece piece = cut.piece(first);
            if (request.bags[piece.first_table].offsets)
                run_bags(request, piece);
            else
                run_grid<false>(request, cut, first, first + 1);
        }
        if (first >= last) return;
        if (request.stream) {
            run_grid<true>(request, cut, first, last);
            Isa::fence();
        } else {
            run_grid<false>(request, cut, first, last);
        }
    }

  private:
    using Finding = Find<Isa>;
    using Writing = Write<Isa>;

    // A piece under way.
    struct Work {
        Slots slots;
        Span spans[kSlots];
        int count = 0;
        bool few = false;
    };

    // Takes pieces 0 to count - 1 through all steps: `begin` reads one, `end` writes it.
    template <class Begin, class End>
    MEMREC_INLINE static void run_steps(int64_t count, uint64_t* clock, Begin begin, End end) {
        Work ring[kUnderWay];
        uint64_t before = clock ? nanoseconds() : 0;
        const auto stop = [&](int step) MEMREC_INLINE {
            if (!clock) return;
            const uint64_t now = nanoseconds();
            clock[step] += now - before;
            before = now;
        };
        for (int64_t i = 0; i < count + kUnderWay - 1; ++i) {
            const auto is_piece = [&](int64_t number) { return number >= 0 && number < count; };
            if (is_piece(i)) begin(i, ring[i % kUnderWay]);
            stop(0);
            if (is_piece(i - 1)) {
                Work& work = ring[(i - 1) % kUnderWay];
                for (int s = 0; s < work.count; ++s) Finding::find_buckets(work.spans[s], work.slots);
            }
            stop(1);
            if (is_piece(i - 2)) {
                Work& work = ring[(i - 2) % kUnderWay];
                for (int s = 0; s < work.count; ++s) Finding::find_places(work.spans[s], work.slots);
            }
            stop(2);
            if (is_piece(i - 3)) {
                Work& work = ring[(i - 3) % kUnderWay];
                // With few lookups of each table there is nothing to do while the tokens of one come: all are asked for.
                for (int s = 0; s < (work.few ? work.count : 0); ++s) Writing::ask_for_codes(work.spans[s], work.slots);
                end(i - 3, work);
            }
            stop(3);
        }
    }

    template <bool stream>
    static void run_grid(const Request& request, const Cut& cut, int64_t first, int64_t last) {
        const auto begin = [&](int64_t i, Work& work) MEMREC_INLINE {
            const Piece piece = cut.piece(first + i);
            const auto samples = static_cast<int>(piece.last - piece.first);
            work.few = samples < kFew;
            work.count = 0;
            for (int64_t t = piece.first_table; t < piece.last_table; ++t) {
                const Bags& bags = request.bags[t];
                const int slot = work.count * samples;
                Span& span = work.spans[work.count++];
                span = {bags.table, slot, slot + samples, vector_of(bags, piece.first), bags.out_stride, work.few, {}};
                Finding::read(span, bags, piece.first, work.slots);
            }
        };
        const auto end = [&](int64_t, Work& work) MEMREC_INLINE {
            for (int s = 0; s < work.count; ++s) Writing::template write<stream>(work.spans[s], work.slots);
        };
        run_steps(last - first, request.clock, begin, end);
    }

    // Bags of several ids: rows go to a scratch of kSlots rows and from there, in order, into their bag's sum.
    static void run_bags(const Request& request, const Piece& piece) {
        for (int64_t t = piece.first_table; t < piece.last_table; ++t) run_bags_of(request, t, piece);
    }

    static void run_bags_of(const Request& request, int64_t number, const Piece& piece) {
        const Bags& bags = request.bags[number];
        const Table& table = *bags.table;
        float* scratch = scratch_floats(static_cast<int64_t>(kSlots) * table.dim);
        const int64_t start = start_of(bags, piece.first, request.samples);
        const int64_t ids = start_of(bags, piece.last, request.samples) - start;
        int64_t bag = piece.first, in_bag = 0;
        float* out = vector_of(bags, bag);
        clear(out, table.dim);
        const auto close = [&] {
            if (table.pooling == Pooling::mean && in_bag > 1) divide(out, table.dim, static_cast<float>(in_bag));
            in_bag = 0;
            if (++bag < piece.last) {
                out += bags.out_stride;
                clear(out, table.dim);
            }
        };
        const auto begin = [&](int64_t i, Work& work) {
            const int64_t left = ids - i * kSlots;
            work.count = 1;
            work.spans[0] = {&table, 0, static_cast<int>(left < kSlots ? left : kSlots), scratch, table.dim, false, {}};
            Finding::read(work.spans[0], bags, start + i * kSlots, work.slots);
        };
        const auto end = [&](int64_t i, Work& work) {
            const Span& span = work.spans[0];
            Writing::template write<false>(span, work.slots);
            for (int slot = 0; slot < span.last; ++slot) {
                const int64_t position = start + i * kSlots + slot;
                while (position >= start_of(bags, bag + 1, request.samples)) close();
                if (id_at(bags, position) == table.padding && table.padding >= 0) continue;
                add_row(out, scratch + static_cast<int64_t>(slot) * table.dim, table.dim,
                        bags.weights ? bags.weights + position : nullptr);
                ++in_bag;
            }
        };
        run_steps((ids + kSlots - 1) / kSlots, nullptr, begin, end);
        while (bag < piece.last) close();
    }

    static uint64_t nanoseconds() {
        return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    }

    static void clear(float* out, int dim) { std::memset(out, 0, sizeof(float) * static_cast<size_t>(dim)); }

    static void add_row(float* out, const float* row, int dim, const float* weight) {
        for_columns<Isa>(dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
            using Lanes = decltype(lanes);
            for (int b = 0; b < decltype(blocks)::value; ++b) {
                const int at = column + b * Lanes::lanes;
                auto values = Lanes::load(row + at);
                if (weight) values = Lanes::multiply(values, load_at<float>(weight, 0));
                Lanes::template store<false>(out + at, Lanes::add(Lanes::load(out + at), values));
            }
        });
    }

    static void divide(float* out, int dim, float by) {
        for_columns<Isa>(dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
            using Lanes = decltype(lanes);
            for (int b = 0; b < decltype(blocks)::value; ++b) {
                const int at = column + b * Lanes::lanes;
                Lanes::template store<false>(out + at, Lanes::divide(Lanes::load(out + at), by));
            }
        });
    }
};

}  // namespace
}  // namespace memrec
