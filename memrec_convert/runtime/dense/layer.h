// One linear layer with its weights packed for the products: x -> W x + b, and a ReLU on request.
#pragma once

#include <cstdint>
#include <memory>

#include "core/memory.h"

namespace memrec {

enum class Precision : int32_t { fp32 = 0, bf16 = 1, int8 = 2 };

constexpr int64_t kLanes = 16;       // outputs side by side
constexpr int64_t kPanel = 4;        // columns of so many outputs that are taken together
constexpr int64_t kLine = 64;        // bytes of a step's weights for one column
constexpr int64_t kMostRows = 6;     // rows of a tile in vector registers
constexpr int64_t kTileRows = 16;    // and of a tile of AMX, which is as many steps wide

namespace {  // compiled anew for each instruction set: none may stand for the others
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
}  // namespace

// Weights as somebody holds them, row by row.
struct LayerSource {
    const void* weights;  // float [outputs, inputs], or int8, or bf16 as uint16
    const float* scale;   // of int8 weights, one per output
    const float* bias;    // or null
};

// A step is four bytes of a row: four values of int8, two of bf16, one of fp32. Weights lie panel by panel, in a panel step
// by step, in a step column by column, 16 outputs of 4 bytes each. Of int8 and bf16, steps are filled up with zeros.
struct Layer {
    Precision precision;
    int64_t inputs, outputs;
    bool relu;      // after it
    bool positive;  // no input is below zero, so int8 has its whole range for them
    int64_t steps, columns;
    int64_t stride;  // steps from panel to panel, and from row to row of what is multiplied
    const uint8_t* lines;
    const float* scale;         // int8: per output
    const float* bias;
    const int32_t* correction;  // int8: the sum of an output's weights times what is added to every input
    std::unique_ptr<Memory> memory;

    int64_t products() const { return inputs * outputs; }
};

// std::bad_alloc where there is no memory.
std::unique_ptr<Layer> pack_layer(const LayerSource& from, Precision precision, int64_t outputs, int64_t inputs, bool relu,
                                  bool positive);

}  // namespace memrec
