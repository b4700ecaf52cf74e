// Layers over an instruction set's products of four bytes: tiles of rows by columns, compiled once per instruction set.
#pragma once

#include <cstring>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#endif

#include "kernel.h"

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define MEMREC_SHUFFLES 1
#endif
#endif

#define MEMREC_FORCED inline __attribute__((always_inline))

namespace memrec {
namespace {

using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));

template <class V>
MEMREC_FORCED void load(V& to, const void* from) {
    std::memcpy(&to, from, sizeof to);
}

template <class V>
MEMREC_FORCED void store(void* to, const V& from) {
    std::memcpy(to, &from, sizeof from);
}

MEMREC_FORCED Floats spread(float value) { return value - Floats{}; }  // minus, so that -0 stays

// What an instruction set adds products to at a time, and sum + left * right rounded once, as IEEE 754 defines it.
#if defined(__AVX512F__)
constexpr bool kFuses = true;
using Piece = __m512;
MEMREC_FORCED Piece fuse(Piece sum, Piece left, Piece right) { return _mm512_fmadd_ps(left, right, sum); }
#elif defined(__FMA__)
constexpr bool kFuses = true;
using Piece = __m256;
MEMREC_FORCED Piece fuse(Piece sum, Piece left, Piece right) { return _mm256_fmadd_ps(left, right, sum); }
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
constexpr bool kFuses = true;
using Piece = float32x4_t;
MEMREC_FORCED Piece fuse(Piece sum, Piece left, Piece right) { return vfmaq_f32(sum, left, right); }
#else
constexpr bool kFuses = false;
using Piece = float __attribute__((vector_size(8)));

// In double the product is exact. Where the sum is not, it becomes whichever of its two neighbours is odd, and rounding that
// to float is rounding the exact sum: Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008.
MEMREC_FORCED Piece fuse(Piece sum, Piece left, Piece right) {
    using Doubles = double __attribute__((vector_size(16)));
    using Longs = int64_t __attribute__((vector_size(16)));
    const Doubles product = __builtin_convertvector(left, Doubles) * __builtin_convertvector(right, Doubles);
    const Doubles before = __builtin_convertvector(sum, Doubles), near = product + before;
    const Doubles grown = near - product, lost = (product - (near - grown)) + (before - grown);
    const Longs bits = reinterpret_cast<Longs>(near), above = lost > 0.0, below = lost < 0.0, positive = near > 0.0;
    const Longs even = (bits & 1) - 1;          // all ones where it is
    const Longs step = 1 | (above ^ positive);  // towards what was lost: 1 away from zero, or -1
    return __builtin_convertvector(reinterpret_cast<Doubles>(bits + (step & (above | below) & even)), Piece);
}
#endif

// The same of 16 lanes: the same bits on every instruction set.
MEMREC_FORCED void add_product(Floats& sum, const Floats& left, const Floats& right) {
    constexpr int pieces = sizeof(Floats) / sizeof(Piece);
    Piece sums[pieces], lefts[pieces], rights[pieces];
    load(lefts, &left);
    load(rights, &right);
    load(sums, &sum);
    for (int n = 0; n < pieces; ++n) sums[n] = fuse(sums[n], lefts[n], rights[n]);
    load(sum, sums);
}

// The same where products are exact, as those of bf16 are: fused or not makes no difference.
MEMREC_FORCED void add_exact(Floats& sum, float left, const Floats& right) {
    if (kFuses)
        add_product(sum, spread(left), right);
    else
        sum += left * right;
}

// f(vector of 16 values from k on, k) for a whole row, the last one filled up with zeros.
template <class F>
MEMREC_FORCED void for_each_16(const float* row, int64_t count, F f) {
    int64_t k = 0;
    Floats values;
    for (; k + kLanes <= count; k += kLanes) {
        load(values, row + k);
        f(values, k);
    }
    if (k == count) return;
    values = Floats{};
    std::memcpy(&values, row + k, sizeof(float) * static_cast<size_t>(count - k));
    f(values, k);
}

// Sums of 16 outputs, and rows as these take them, in plain C++; an instruction set replaces what it does better.
struct PlainProducts {
    static constexpr int most_rows = kMostRows, at_once = 1;  // of a tile, for whose sums there are registers: rows, columns
    using FloatSum = Floats;
    using IntSum = Ints;

    template <class Sum>
    MEMREC_FORCED static void put(void* to, const Sum& sum) {
        store(to, sum);
    }
    MEMREC_FORCED static void add_bytes(IntSum& sum, uint32_t word, const uint8_t* line) {
        for (int n = 0; n < 16; ++n)
            for (int k = 0; k < 4; ++k)
                sum[n] += static_cast<int32_t>(word >> 8 * k & 0xFF) * static_cast<int8_t>(line[4 * n + k]);
    }
    // As AVX-512 defines it but for where it rounds: the upper value first.
    MEMREC_FORCED static void add_halves(FloatSum& sum, uint32_t word, const uint8_t* line) {
        Words weights;
        load(weights, line);
        const uint32_t low = word << 16, high = word & 0xFFFF0000u;
        float first, second;
        std::memcpy(&first, &low, 4);
        std::memcpy(&second, &high, 4);
        add_exact(sum, second, reinterpret_cast<Floats>(weights & 0xFFFF0000u));
        add_exact(sum, first, reinterpret_cast<Floats>(weights << 16));
    }
    MEMREC_FORCED static void add_singles(FloatSum& sum, uint32_t word, const uint8_t* line) {
        Floats weights;
        load(weights, line);
        float value;
        std::memcpy(&value, &word, 4);
        add_product(sum, spread(value), weights);
    }

    // The largest size of a row's values, NaN left out; `poison` becomes NaN where a value is not finite.
    static float find_largest(const float* row, int64_t count, float& poison) {
        Floats most{}, strange{};
        for_each_16(row, count, [&](const Floats& values, int64_t) {
            const Floats size = values < 0.0f ? -values : values;
            most = size > most ? size : most;
            strange += values * 0.0f;
        });
        float largest = 0.0f;
        for (int n = 0; n < kLanes; ++n) {
            largest = most[n] > largest ? most[n] : largest;
            poison += strange[n];
        }
        return largest;
    }
    // Values times `factor`, as bytes: the lowest bits of what that plus `rounding` is as an integer, plus `shift`.
    MEMREC_FORCED static void put_bytes(uint8_t* to, const Floats& values, float factor, float rounding, int32_t shift) {
        using Bytes = uint8_t __attribute__((vector_size(16)));
        const Bytes narrow = __builtin_convertvector(reinterpret_cast<Ints>(values * factor + rounding) + shift, Bytes);
        std::memcpy(to, &narrow, sizeof narrow);
    }
    MEMREC_FORCED static void put_halves(uint16_t* to, const Floats& values) {
        using Halves = uint16_t __attribute__((vector_size(32)));
        const Words bits = reinterpret_cast<Words>(values);
        const Words rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
        const Halves narrow = __builtin_convertvector(values == values ? rounded : Words{} + 0x7FC0u, Halves);
        std::memcpy(to, &narrow, sizeof narrow);
    }
};

// What differs between the precisions: the sums of a tile, and what becomes of them.
template <class Products>
struct OfBytes {
    using Sum = typename Products::IntSum;
    static constexpr int most_rows = Products::most_rows, at_once = Products::at_once;
    MEMREC_FORCED static void add(Sum& sum, uint32_t word, const uint8_t* line) { Products::add_bytes(sum, word, line); }
    MEMREC_FORCED static void put(void* to, const Sum& sum) { Products::put(to, sum); }
    MEMREC_FORCED static void finish(const Layer& layer, const void* sum, float row_scale, int64_t n, Floats& out) {
        Floats scale, bias;
        Ints whole, correction;
        load(whole, sum);
        load(scale, layer.scale + n);
        load(bias, layer.bias + n);
        load(correction, layer.correction + n);
        out = __builtin_convertvector(whole - correction, Floats) * (row_scale * scale) + bias;
    }
};

template <class Products>
struct OfHalves {
    using Sum = typename Products::FloatSum;
    static constexpr int most_rows = Products::most_rows, at_once = Products::at_once;
    MEMREC_FORCED static void add(Sum& sum, uint32_t word, const uint8_t* line) { Products::add_halves(sum, word, line); }
    MEMREC_FORCED static void put(void* to, const Sum& sum) { Products::put(to, sum); }
    MEMREC_FORCED static void finish(const Layer& layer, const void* sum, float, int64_t n, Floats& out) {
        Floats whole;
        load(whole, sum);
        load(out, layer.bias + n);
        out += whole;
    }
};

template <class Products>
struct OfSingles : OfHalves<Products> {
    using typename OfHalves<Products>::Sum;
    MEMREC_FORCED static void add(Sum& sum, uint32_t word, const uint8_t* line) { Products::add_singles(sum, word, line); }
};

struct Target {
    float* out;
    int64_t stride;
    bool padded;
};

// A row's 16 sums from output n on become what the layer says, in `out`, the row's place.
template <class Of>
MEMREC_FORCED void finish_sums(const Layer& layer, const void* sum, float row_scale, int64_t n, const Target& to,
                               float* out) {
    const int64_t left = layer.outputs - n;
    Floats result;
    Of::finish(layer, sum, row_scale, n, result);
    if (layer.relu) result = result < 0.0f ? Floats{} : result;  // NaN stays
    if (to.padded || left >= kLanes)
        store(out + n, result);
    else
        std::memcpy(out + n, &result, sizeof(float) * static_cast<size_t>(left));
}

// Some columns, `lines` being those of the first, of `wide` that lie together.
template <class Of, int rows, int columns>
MEMREC_FORCED void multiply_columns(const Layer& layer, const Operand& from, int64_t first, const uint8_t* lines, int64_t wide,
                                    int64_t n, const Target& to) {
    typename Of::Sum sums[rows][columns] = {};
    const uint32_t* words = from.words + first * layer.stride;
    for (int64_t step = 0; step < layer.steps; ++step, lines += wide * kLine) {
        if (rows < 3) __builtin_prefetch(lines + 2048);  // few rows: as fast as the weights come
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < columns; ++c) Of::add(sums[r][c], words[r * layer.stride + step], lines + c * kLine);
    }
    uint32_t done[rows][columns][kLanes];  // at once, so that no sum has to wait outside a register
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < columns; ++c) Of::put(done[r][c], sums[r][c]);
    for (int r = 0; r < rows; ++r) {
        float* out = to.out + (first + r) * to.stride;
        for (int c = 0; c < columns; ++c)
            finish_sums<Of>(layer, done[r][c], from.scale[first + r], n + c * kLanes, to, out);
    }
}

template <class Of, int rows, int wide>
void multiply_tile(const Layer& layer, const Operand& from, int64_t first, const uint8_t* lines, int64_t n, const Target& to) {
    constexpr int columns = Of::at_once < wide ? Of::at_once : wide;
    static_assert(wide % columns == 0, "all columns are taken");
    for (int c = 0; c < wide; c += columns)
        multiply_columns<Of, rows, columns>(layer, from, first, lines + c * kLine, wide, n + c * kLanes, to);
}

template <class Of, int wide, int rows = Of::most_rows>
MEMREC_FORCED void multiply_rest(const Layer& layer, const Operand& from, int64_t first, int64_t count, const uint8_t* lines,
                                 int64_t n, const Target& to) {
    if constexpr (rows > 0) {
        if (count >= rows) return multiply_tile<Of, rows, wide>(layer, from, first, lines, n, to);
        multiply_rest<Of, wide, rows - 1>(layer, from, first, count, lines, n, to);
    }
}

template <class Of, int wide>
void multiply_panel(const Layer& layer, const Operand& from, int64_t count, const uint8_t* lines, int64_t n, const Target& to) {
    for (int64_t first = 0; first < count; first += Of::most_rows)
        multiply_rest<Of, wide>(layer, from, first, count - first, lines, n, to);
}

template <class Of>
void multiply(const Layer& layer, const Operand& from, int64_t count, const Target& to) {
    for (int64_t column = 0; column < layer.columns; column += kPanel) {
        const uint8_t* lines = layer.lines + column * layer.stride * kLine;
        const int64_t n = column * kLanes;
        switch (layer.columns - column) {
            case 1: multiply_panel<Of, 1>(layer, from, count, lines, n, to); break;
            case 2: multiply_panel<Of, 2>(layer, from, count, lines, n, to); break;
            case 3: multiply_panel<Of, 3>(layer, from, count, lines, n, to); break;
            default: multiply_panel<Of, 4>(layer, from, count, lines, n, to);
        }
    }
}

constexpr int64_t kSmallCache = 1 << 20;

constexpr float kLeastRow = 1e-30f;  // a row without larger values is one of zeros

// A row in eight bits, rounded to the nearest, halves to even. From 0 to 255 where nothing is below zero; else from -127 to
// 127, with 128 added. Returns what its products are to be multiplied by; NaN where a value is not finite.
template <class Products>
float take_bytes(const float* row, const Layer& layer, uint32_t* words) {
    float poison = 0.0f;
    const float largest = Products::find_largest(row, layer.inputs, poison);
    const float levels = layer.positive ? 255.0f : 127.0f;
    const float factor = largest > kLeastRow ? levels / largest : 0.0f;
    constexpr float rounding = 12582912.0f;  // 1.5 * 2**23: adding it leaves whole numbers in the lowest bits
    const int32_t shift = (layer.positive ? 0 : 128) - 0x4B400000;
    auto* bytes = reinterpret_cast<uint8_t*>(words);
    for_each_16(row, layer.inputs, [&](const Floats& values, int64_t k) { Products::put_bytes(bytes + k, values, factor, rounding, shift); });
    return largest > kLeastRow ? largest / levels + poison : poison;
}

// A row in bf16, rounded to the nearest, halves to even.
template <class Products>
void take_halves(const float* row, int64_t count, uint32_t* words) {
    auto* halves = reinterpret_cast<uint16_t*>(words);
    for_each_16(row, count, [&](const Floats& values, int64_t k) { Products::put_halves(halves + k, values); });
}

// Words up to the next row's are zeros, but for bytes of a layer that is not positive, which meet weights of zero.
template <class Products>
void take_in(const Layer& layer, const float* rows, int64_t stride, int64_t count, const Operand& to) {
    for (int64_t r = 0; r < count; ++r) {
        uint32_t* words = to.words + r * layer.stride;
        const float* row = rows + r * stride;
        to.scale[r] = 1.0f;
        if (layer.precision == Precision::int8)
            to.scale[r] = take_bytes<Products>(row, layer, words);
        else if (layer.precision == Precision::bf16)
            take_halves<Products>(row, layer.inputs, words);
        else
            std::memcpy(words, row, sizeof(float) * static_cast<size_t>(layer.inputs));
        const int64_t filled = layer.precision == Precision::int8   ? round_up(layer.inputs, kLanes) / 4
                               : layer.precision == Precision::bf16 ? round_up(layer.inputs, kLanes) / 2
                                                                    : layer.stride;
        std::memset(words + filled, 0, sizeof(uint32_t) * static_cast<size_t>(layer.stride - filled));
    }
}

template <class Products>
void run_layer(const Layer& layer, const float* rows, int64_t stride, int64_t count, const Operand& scratch, float* out,
               int64_t out_stride, bool padded) {
    take_in<Products>(layer, rows, stride, count, scratch);
    const Target to = {out, out_stride, padded};
    if (layer.precision == Precision::int8)
        multiply<OfBytes<Products>>(layer, scratch, count, to);
    else if (layer.precision == Precision::bf16)
        multiply<OfHalves<Products>>(layer, scratch, count, to);
    else
        multiply<OfSingles<Products>>(layer, scratch, count, to);
}

// Lane s of the result is the sum of all lanes of sums[s]: neighbours first, then pairs of neighbours, and so on.
#if MEMREC_SHUFFLES
MEMREC_FORCED Floats add_lanes(Floats* sums) {
    for (int s = 0; s < 8; ++s) {
        const Floats &a = sums[2 * s], &b = sums[2 * s + 1];
        sums[s] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
                  __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    }
    for (int s = 0; s < 4; ++s) {
        const Floats &a = sums[2 * s], &b = sums[2 * s + 1];
        sums[s] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                  __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
    for (int s = 0; s < 2; ++s) {
        const Floats &a = sums[2 * s], &b = sums[2 * s + 1];
        sums[s] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
                  __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
    return __builtin_shufflevector(sums[0], sums[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(sums[0], sums[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

#else  // GCC before 12
MEMREC_FORCED Floats add_lanes(Floats* sums) {
    Floats result{};
    for (int s = 0; s < kLanes; ++s) {
        for (int left = kLanes / 2; left; left /= 2)
            for (int n = 0; n < left; ++n) sums[s][n] = sums[s][2 * n] + sums[s][2 * n + 1];
        result[s] = sums[s][0];
    }
    return result;
}
#endif

inline void multiply_pairs(const float* vectors, int64_t count, int64_t width, const int32_t* place, float* out) {
    constexpr int64_t side = 4;
    for (int64_t i = 0; i < count; i += side) {
        const float* own[side];  // past the last vector comes the last one again
        for (int64_t n = 0; n < side; ++n) own[n] = vectors + (i + n < count ? i + n : count - 1) * width;
        for (int64_t j = 0; j <= i; j += side) {
            const float* others[side];
            for (int64_t n = 0; n < side; ++n) others[n] = vectors + (j + n < count ? j + n : count - 1) * width;
            Floats sums[side * side] = {};
            for (int64_t k = 0; k < width; k += kLanes) {
                Floats right[side];
                for (int n = 0; n < side; ++n) load(right[n], others[n] + k);
                for (int m = 0; m < side; ++m) {
                    Floats left;
                    load(left, own[m] + k);
                    for (int n = 0; n < side; ++n) add_product(sums[side * m + n], left, right[n]);
                }
            }
            const Floats found = add_lanes(sums);
            for (int64_t m = 0; m < side && i + m < count; ++m) {
                const int32_t* at = place + (i + m) * count + j;
                if (j + side <= i && at[0] >= 0 && at[side - 1] == at[0] + side - 1) {  // rising by one, as in a lower triangle
                    std::memcpy(out + at[0], reinterpret_cast<const float*>(&found) + side * m, sizeof(float) * side);
                    continue;
                }
                for (int64_t n = 0; n < side && j + n <= i + m; ++n)
                    if (at[n] >= 0) out[at[n]] = found[side * m + n];
            }
        }
    }
}

// What each product of two vectors pulls at either of them: [count, count], twice on the diagonal, zero where there is none.
void spread_pulls(int64_t count, const int32_t* place, const float* pulls, float* square) {
    for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < i; ++j) {
            const int32_t at = place[i * count + j];
            square[i * count + j] = square[j * count + i] = at < 0 ? 0.0f : pulls[at];
        }
        const int32_t own = place[i * count + i];
        square[i * count + i] = own < 0 ? 0.0f : 2 * pulls[own];
    }
}

// out[m] from k on, in `wide` vectors: the sum over j of rows[m][j] * vectors[j], for the first `own` of four rows.
template <int wide>
MEMREC_FORCED void pull_lines(const float* vectors, int64_t count, int64_t width, const float* const* rows, int64_t own, int64_t k,
                              float* out) {
    Floats sums[4][wide] = {};
    for (int64_t j = 0; j < count; ++j) {
        Floats others[wide];
        for (int c = 0; c < wide; ++c) load(others[c], vectors + j * width + k + c * kLanes);
        for (int m = 0; m < 4; ++m)
            for (int c = 0; c < wide; ++c) add_product(sums[m][c], spread(rows[m][j]), others[c]);
    }
    for (int64_t m = 0; m < own; ++m)
        for (int c = 0; c < wide; ++c) store(out + m * width + k + c * kLanes, sums[m][c]);
}

template <class Products>
void pull_pairs(const float* vectors, int64_t count, int64_t width, const int32_t* place, const float* pulls, float* square,
                float* out) {
    constexpr int64_t side = 4;  // vectors that grow at a time, so that each of the others is read once for them
    constexpr int wide = Products::at_once < 2 ? 1 : 2;
    spread_pulls(count, place, pulls, square);
    for (int64_t i = 0; i < count; i += side) {
        const int64_t own = count - i < side ? count - i : side;
        const float* rows[side];
        for (int64_t m = 0; m < side; ++m) rows[m] = square + (i + (m < own ? m : own - 1)) * count;
        int64_t k = 0;
        for (; k + wide * kLanes <= width; k += wide * kLanes)
            pull_lines<wide>(vectors, count, width, rows, own, k, out + i * width);
        if (k < width) pull_lines<1>(vectors, count, width, rows, own, k, out + i * width);
    }
}

}  // namespace
}  // namespace memrec
