#include "layer.h"

#include <cstring>

namespace memrec {
namespace {

int64_t values_per_step(Precision precision) { return precision == Precision::int8 ? 4 : precision == Precision::bf16 ? 2 : 1; }

}  // namespace

std::unique_ptr<Layer> pack_layer(const LayerSource& from, Precision precision, int64_t outputs, int64_t inputs, bool relu,
                                  bool positive) {
    auto layer = std::make_unique<Layer>();
    const int64_t per_step = values_per_step(precision), size = 4 / per_step;
    const int64_t steps = round_up(inputs, per_step) / per_step, columns = round_up(outputs, kLanes) / kLanes;
    const int64_t stride = precision == Precision::fp32 ? steps : round_up(steps, kTileRows);
    const int64_t line_bytes = columns * stride * kLine, padded = columns * kLanes;
    layer->memory = make_room(static_cast<uint64_t>(line_bytes + 3 * 4 * padded));
    uint8_t* lines = layer->memory->writable();
    auto* scale = reinterpret_cast<float*>(lines + line_bytes);
    float* bias = scale + padded;
    auto* correction = reinterpret_cast<int32_t*>(bias + padded);
    for (int64_t n = 0; n < outputs; ++n) {
        const int64_t column = n / kLanes, panel = column / kPanel;
        const int64_t wide = columns - panel * kPanel < kPanel ? columns - panel * kPanel : kPanel;
        uint8_t* start = lines + panel * kPanel * stride * kLine + column % kPanel * kLine + n % kLanes * 4;
        const auto* row = static_cast<const uint8_t*>(from.weights) + n * inputs * size;
        for (int64_t k = 0; k < inputs; ++k)
            std::memcpy(start + k / per_step * wide * kLine + k % per_step * size, row + k * size, static_cast<size_t>(size));
        bias[n] = from.bias ? from.bias[n] : 0.0f;
        if (precision != Precision::int8) continue;
        scale[n] = from.scale[n];
        int32_t sum = 0;
        for (int64_t k = 0; k < inputs; ++k) sum += static_cast<int8_t>(row[k]);
        correction[n] = positive ? 0 : 128 * sum;
    }
    layer->precision = precision;
    layer->inputs = inputs;
    layer->outputs = outputs;
    layer->relu = relu;
    layer->positive = positive;
    layer->steps = steps;
    layer->stride = stride;
    layer->columns = columns;
    layer->lines = lines;
    layer->scale = scale;
    layer->bias = bias;
    layer->correction = correction;
    return layer;
}

}  // namespace memrec
