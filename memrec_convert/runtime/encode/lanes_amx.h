// Sixteen floats in one register of AVX-512, and products of whole blocks in tiles.
#pragma once

#include <algorithm>

#include "core/tiles.h"
#include "lanes_avx512.h"

namespace memrec {
namespace {

struct AmxLanes : Avx512Lanes {
    static constexpr int kMostGroups = 16;

    // How vectors of so many groups of four bytes are cut: in `cuts` of `groups` each, the last filled up.
    class Cut {
      public:
        static constexpr bool has_tiles = true;

        explicit Cut(int64_t depth)
            : cuts_(static_cast<int>(std::max<int64_t>(1, (depth / kGroup + kMostGroups - 1) / kMostGroups))),
              groups_(static_cast<int>((depth / kGroup + cuts_ - 1) / cuts_)), tiles_(groups_) {}

        int64_t depth() const { return int64_t{cuts_} * groups_ * kGroup; }

        // Products of 32 rows, or 16 where not `both`, and two panels, or one where `wide` is 1: int32 [2][2][16][16] by
        // half of the rows, panel, row and column. Bytes past a row's end meet zeros of the panels.
        MEMREC_ALWAYS void multiply(const int8_t* rows, int64_t stride, bool both, const int8_t* panels, int64_t bytes, int wide,
                                    int32_t* out) const {
            Tiles::publish(panels);
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            const int64_t step = int64_t{groups_} * kGroup;
            for (int cut = 0; cut < cuts_; ++cut, rows += step, panels += step * kPanelColumns) {
                _tile_loadd(4, rows, stride);
                _tile_loadd(6, panels, 64);
                _tile_dpbssd(0, 4, 6);
                if (wide > 1) {
                    _tile_loadd(7, panels + bytes, 64);
                    _tile_dpbssd(1, 4, 7);
                }
                if (!both) continue;
                _tile_loadd(5, rows + 16 * stride, stride);
                _tile_dpbssd(2, 5, 6);
                if (wide > 1) _tile_dpbssd(3, 5, 7);
            }
            _tile_stored(0, out, 64);
            if (wide > 1) _tile_stored(1, out + 256, 64);
            if (both) _tile_stored(2, out + 512, 64);
            if (both && wide > 1) _tile_stored(3, out + 768, 64);
        }

        static Ints load(const int32_t* from) { return _mm512_load_si512(from); }

      private:
        int cuts_, groups_;
        Tiles tiles_;
    };
};

}  // namespace
}  // namespace memrec
