// Runs random layers through each instruction set of this machine: int8 has the scalar one's bits, bf16 and fp32 are near
// sums in double, and a row's outputs are the same bits alone and among others. Prints a line per instruction set.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "dense/kernel.h"

namespace {

using namespace memrec;

uint64_t state = 1;

float draw() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<float>(static_cast<int64_t>(state >> 40) - (1 << 23)) / static_cast<float>(1 << 23);
}

struct Case {
    std::unique_ptr<Layer> layer;
    std::vector<double> weights;  // as the layer holds them, [outputs, inputs]
    std::vector<float> bias, rows;
    int64_t count;
};

float from_half(uint16_t half) {
    const uint32_t bits = uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

uint16_t to_half(float value) {  // towards zero: any bf16 will do
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<uint16_t>(bits >> 16);
}

Case make_case(Precision precision, int64_t outputs, int64_t inputs, int64_t count, bool relu, bool positive) {
    Case made;
    const auto size = static_cast<size_t>(outputs * inputs);
    std::vector<float> singles(size), scale(static_cast<size_t>(outputs));
    std::vector<uint16_t> halves(size);
    std::vector<int8_t> bytes(size);
    made.bias.resize(static_cast<size_t>(outputs));
    made.weights.resize(size);
    for (float& value : scale) value = 0.01f + 0.01f * std::fabs(draw());
    for (float& value : made.bias) value = draw();
    for (size_t i = 0; i < size; ++i) {
        singles[i] = draw();
        halves[i] = to_half(singles[i]);
        bytes[i] = static_cast<int8_t>(i % 7 ? std::lrint(127 * singles[i]) : i % 2 ? 127 : -127);
        made.weights[i] = precision == Precision::fp32   ? singles[i]
                          : precision == Precision::bf16 ? from_half(halves[i])
                                                         : bytes[i] * double{scale[i / static_cast<size_t>(inputs)]};
    }
    const void* held = precision == Precision::fp32 ? static_cast<const void*>(singles.data())
                       : precision == Precision::bf16 ? static_cast<const void*>(halves.data()) : bytes.data();
    made.layer = pack_layer({held, scale.data(), made.bias.data()}, precision, outputs, inputs, relu, positive);
    made.rows.resize(static_cast<size_t>(count * inputs));
    for (float& value : made.rows) value = positive ? std::fabs(draw()) : draw();
    made.count = count;
    return made;
}

std::vector<float> run(const DenseKernel& kernel, const Case& one, int64_t first, int64_t count) {
    const Layer& layer = *one.layer;
    const int64_t room = round_up(count, kTileRows);
    const float strange = std::nanf("");  // what is left in memory meets nothing
    std::vector<float> words(static_cast<size_t>(room * layer.stride), strange), scale(static_cast<size_t>(room));
    std::vector<float> out(static_cast<size_t>(count * layer.outputs));
    kernel.run(layer, one.rows.data() + first * layer.inputs, layer.inputs, count,
               {reinterpret_cast<uint32_t*>(words.data()), scale.data()}, out.data(), layer.outputs, false);
    return out;
}

bool is_near(const Case& one, const std::vector<float>& out) {
    const Layer& layer = *one.layer;
    for (int64_t r = 0; r < one.count; ++r)
        for (int64_t n = 0; n < layer.outputs; ++n) {
            double sum = one.bias[static_cast<size_t>(n)], size = std::fabs(sum);
            for (int64_t k = 0; k < layer.inputs; ++k) {
                const double product = one.weights[static_cast<size_t>(n * layer.inputs + k)] *
                                       double{one.rows[static_cast<size_t>(r * layer.inputs + k)]};
                sum += product;
                size += std::fabs(product);
            }
            if (layer.relu && sum < 0) sum = 0;
            const double allowed = layer.precision == Precision::fp32 ? 1e-6 : layer.precision == Precision::bf16 ? 0.004 : 0.02;
            if (!(std::fabs(out[static_cast<size_t>(r * layer.outputs + n)] - sum) <= allowed * size)) return false;
        }
    return true;
}

bool is_same(const std::vector<float>& one, const float* other) {
    return !std::memcmp(one.data(), other, one.size() * sizeof(float));
}

}  // namespace

int main() {
    const Features features = detect_features();
    std::vector<const DenseKernel*> kernels = {scalar_dense()};
    const auto add = [&](bool has, const DenseKernel* kernel) {
        if (has && kernel) kernels.push_back(kernel);
    };
    add(features.avx2, avx2_dense());
    add(features.avx512_vnni, avx512_dense());
    add(features.avx512_bf16, avx512_bf16_dense());
    add(take_tiles(), amx_dense());
    for (const DenseKernel* kernel : kernels) {
        state = 1;
        int cases = 0, wrong = 0;
        for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::int8})
            for (const int64_t inputs : {1, 13, 32, 65, 130})
                for (const int64_t outputs : {1, 16, 40, 129})
                    for (const int64_t count : {1, 3, 5, 16, 18, 37, 65}) {
                        const bool relu = cases % 2, positive = cases % 3 == 0;
                        const Case one = make_case(precision, outputs, inputs, count, relu, positive);
                        const std::vector<float> out = run(*kernel, one, 0, count);
                        bool right = is_near(one, out);
                        if (precision == Precision::int8) right = right && is_same(run(*scalar_dense(), one, 0, count), out.data());
                        for (const int64_t row : {int64_t{0}, count / 2, count - 1})
                            right = right && is_same(run(*kernel, one, row, 1), out.data() + row * outputs);
                        ++cases;
                        wrong += !right;
                    }
        std::string name = kernel->name;
        std::replace(name.begin(), name.end(), ' ', '_');
        std::printf("%s: %d cases, %d wrong\n", name.c_str(), cases, wrong);
    }
    return 0;
}
