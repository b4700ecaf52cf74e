// Layers in tiles of AMX, as Sapphire Rapids has them.
#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#include "bf16.h"
#include "core/tiles.h"

namespace memrec {
namespace {

constexpr int64_t kTileCache = 2 << 20;

struct ByteTiles : OfBytes<Bf16Products> {
    MEMREC_FORCED static void multiply_first(bool second) {
        _tile_dpbusd(0, 4, 6);
        if (second) _tile_dpbusd(1, 4, 7);
    }
    MEMREC_FORCED static void multiply_second(bool second) {
        _tile_dpbusd(2, 5, 6);
        if (second) _tile_dpbusd(3, 5, 7);
    }
};

// Sums of bf16 are taken in another order than vector registers take them: a layer has all of them in tiles, so that a
// sample's numbers do not depend on how many others there are.
struct HalfTiles : OfHalves<Bf16Products> {
    MEMREC_FORCED static void multiply_first(bool second) {
        _tile_dpbf16ps(0, 4, 6);
        if (second) _tile_dpbf16ps(1, 4, 7);
    }
    MEMREC_FORCED static void multiply_second(bool second) {
        _tile_dpbf16ps(2, 5, 6);
        if (second) _tile_dpbf16ps(3, 5, 7);
    }
};

// Two tiles of rows, or one, with two columns of a panel, or one: sums of row tile a and column c at sums[a][c].
template <class Of>
MEMREC_FORCED void multiply_tiles(const uint32_t* words, int64_t stride, bool second_rows, const uint8_t* lines, int64_t wide,
                                  bool second_column, typename Of::Sum (&sums)[2][2][kTileRows]) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < stride; step += kTileRows, words += kTileRows, lines += kTileRows * wide * kLine) {
        _tile_loadd(4, words, 4 * stride);
        _tile_loadd(6, lines, wide * kLine);
        if (second_column) _tile_loadd(7, lines + kLine, wide * kLine);
        Of::multiply_first(second_column);
        if (!second_rows) continue;
        _tile_loadd(5, words + kTileRows * stride, 4 * stride);
        Of::multiply_second(second_column);
    }
    _tile_stored(0, sums[0][0], kLine);
    if (second_column) _tile_stored(1, sums[0][1], kLine);
    if (second_rows) _tile_stored(2, sums[1][0], kLine);
    if (second_rows && second_column) _tile_stored(3, sums[1][1], kLine);
}

template <class Of>
void multiply_in_tiles(const Layer& layer, const Operand& from, int64_t count, const Target& to) {
    const int64_t tile = count < kTileRows ? count : kTileRows;
    const Tiles tiles(static_cast<int>(kTileRows), static_cast<int>(tile));
    Tiles::publish(from.words);
    for (int64_t column = 0; column < layer.columns; column += 2) {
        const int64_t panel = column / kPanel * kPanel;
        const int64_t wide = layer.columns - panel < kPanel ? layer.columns - panel : kPanel;
        const uint8_t* lines = layer.lines + panel * layer.stride * kLine + (column - panel) * kLine;
        const bool second_column = column + 1 < layer.columns;
        for (int64_t first = 0; first < count; first += 2 * kTileRows) {
            const bool second_rows = first + kTileRows < count;
            typename Of::Sum sums[2][2][kTileRows];
            multiply_tiles<Of>(from.words + first * layer.stride, layer.stride, second_rows, lines, wide, second_column, sums);
            for (int64_t r = 0; r < 2 * kTileRows && first + r < count; ++r)
                for (int64_t c = 0; c < 1 + second_column; ++c)
                    finish_sums<Of>(layer, &sums[r / kTileRows][c][r % kTileRows], from.scale[first + r],
                                    (column + c) * kLanes, to, to.out + (first + r) * to.stride);
        }
    }
}

void run_in_tiles(const Layer& layer, const float* rows, int64_t stride, int64_t count, const Operand& scratch, float* out,
                  int64_t out_stride, bool padded) {
    constexpr int64_t least = 4;  // rows of int8, below which vector registers take as long
    if (layer.precision == Precision::fp32 || (layer.precision == Precision::int8 && count < least))
        return run_layer<Bf16Products>(layer, rows, stride, count, scratch, out, out_stride, padded);
    take_in<Bf16Products>(layer, rows, stride, count, scratch);
    const Target to = {out, out_stride, padded};
    if (layer.precision == Precision::int8)
        multiply_in_tiles<ByteTiles>(layer, scratch, count, to);
    else
        multiply_in_tiles<HalfTiles>(layer, scratch, count, to);
}

const DenseKernel kernel = {"amx", true, true, 2 * kTileRows, kTileCache, run_in_tiles, multiply_pairs, pull_pairs<Bf16Products>};

}  // namespace

const DenseKernel* amx_dense() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
struct DenseKernel;
const DenseKernel* amx_dense() { return nullptr; }
}  // namespace memrec
#endif
