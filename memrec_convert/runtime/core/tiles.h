// Tiles of AMX: up to sixteen rows of 64 bytes in a register, and products of two of them. For files that are compiled for it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace memrec {
namespace {

// Tiles of this thread while it lives. Tiles 0 to 3 are sums [rows, 16]; 4 and 5 are left factors [rows, groups] and 6 and 7
// right factors [groups, 16], a group being four bytes. Only one may live in a thread at a time.
class Tiles {
  public:
    explicit Tiles(int groups, int rows = 16) {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } shape;
        for (int tile = 0; tile < 8; ++tile) {
            const bool left = tile == 4 || tile == 5, right = tile > 5;
            shape.row_bytes[tile] = static_cast<uint16_t>(left ? 4 * groups : 64);
            shape.rows[tile] = static_cast<uint8_t>(right ? groups : rows);
        }
        publish(&shape);
        _tile_loadconfig(&shape);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

    // What was written to memory is there: compilers do not know that tiles are loaded from it.
    static void publish(const void* memory) { __asm__ volatile("" : : "r"(memory) : "memory"); }
};

}  // namespace
}  // namespace memrec
