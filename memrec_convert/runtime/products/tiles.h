// The tiles of a product: a few rows of a with a few panels at a time, by the registers of one instruction set.
//
// An instruction set is a class with
//   Ints                       16 int32, one per column of a panel
//   rows_at_once, panels_at_once
//   multiply<R, P>(rows, stride, sums, panels, panel_bytes, depth, Ints (&out)[R][P])
//   multiply_groups<R, P>(...)  the same where depth is a multiple of four
//   store(int32_t*, Ints)
#pragma once

#include "inlining.h"
#include "panels.h"

namespace memrec {
namespace {

// How an instruction set without tiles of AMX takes vectors of so many bytes: whole.
class Uncut {
  public:
    static constexpr bool has_tiles = false;
    explicit Uncut(int64_t depth) : depth_(depth) {}
    int64_t depth() const { return depth_; }

  private:
    int64_t depth_;
};

// How the points of a search become panels where products are of groups of four bytes.
struct InGroups {
    static constexpr bool in_pairs = false;
    static void copy_four_groups(const int8_t* rows, int64_t stride, int8_t* panel) { copy_groups(rows, stride, 16, panel); }
    static void copy_rest(const int8_t* rows, int64_t stride, int64_t depth, int8_t* panel) {
        copy_groups(rows, stride, depth, panel);
    }
};

template <class Isa, int R, int P, class Epilogue>
MEMREC_ALWAYS void one_tile(const int8_t* a, int64_t stride, int64_t row, const int32_t* sums, const Panels& panels,
                            int64_t panel, Epilogue& epilogue) {
    typename Isa::Ints tile[R][P];
    const int64_t bytes = panel_bytes(panels.depth);
    Isa::template multiply<R, P>(a + row * stride, stride, sums + row, panels.data + panel * bytes, bytes, panels.depth, tile);
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) epilogue(row + r, (panel + p) * kPanelColumns, tile[r][p]);
}

template <class Isa, int P, int R = Isa::rows_at_once, class Epilogue>
void tiles_of_panels(const int8_t* a, int64_t stride, int64_t row, int64_t rows, const int32_t* sums, const Panels& panels,
                     int64_t panel, Epilogue& epilogue) {
    for (; row + R <= rows; row += R) one_tile<Isa, R, P>(a, stride, row, sums, panels, panel, epilogue);
    if constexpr (R > 1) tiles_of_panels<Isa, P, R / 2>(a, stride, row, rows, sums, panels, panel, epilogue);
}

// epilogue(row, column, Ints) for every row of a and every 16 columns, of which the last may be beyond panels.columns.
template <class Isa, class Epilogue>
void for_each_tile(const int8_t* a, int64_t stride, int64_t rows, const int32_t* sums, const Panels& panels,
                   Epilogue epilogue) {
    constexpr int wide = Isa::panels_at_once;
    const int64_t count = panel_count(panels.columns);
    int64_t panel = 0;
    for (; panel + wide <= count; panel += wide) tiles_of_panels<Isa, wide>(a, stride, 0, rows, sums, panels, panel, epilogue);
    for (; panel < count; ++panel) tiles_of_panels<Isa, 1>(a, stride, 0, rows, sums, panels, panel, epilogue);
}

template <class Isa>
void multiply_by_tiles(const int8_t* a, int64_t a_stride, int64_t rows, const int32_t* sums, const Panels& panels,
                       int32_t* out, int64_t out_stride) {
    for_each_tile<Isa>(a, a_stride, rows, sums, panels, [&](int64_t row, int64_t column, typename Isa::Ints sixteen) {
        int32_t* to = out + row * out_stride + column;
        if (column + kPanelColumns <= panels.columns) return Isa::store(to, sixteen);
        int32_t all[kPanelColumns];
        Isa::store(all, sixteen);
        std::memcpy(to, all, static_cast<size_t>(panels.columns - column) * sizeof(int32_t));
    });
}

}  // namespace
}  // namespace memrec
