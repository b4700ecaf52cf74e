// The last step of a lookup: decodes what was found and writes vectors, one form after the other.
#pragma once

#include "slots.h"
#include "trellis.h"

namespace memrec {
namespace {

constexpr int kAhead = 12;  // rows that are asked for before the one that is written
constexpr int kToAsk = 2;   // a lookup's tokens are asked for after so many others are found
constexpr int kToSum = 14;  // and summed after so many;
constexpr int kRing = 16;   // those are known at one time

// Tokens to be summed, two at a time; an odd last one is paired with itself at the weight 0.
struct Tokens {
    const int8_t* at[kMostTokens + kRun];

    void close(int count) {
        if (count & 1) at[count] = at[count - 1];
    }
};

// A table's centre from the start of a cache line on: the tensor's own begins behind the scale.
struct AlignedCentre {
    static constexpr int kMost = 512, kWorthCopying = 8;
    alignas(kLineBytes) float values[kMost];

    const float* of(const Table& table, int vectors) {
        if (table.dim > kMost || vectors < kWorthCopying) return table.frame + 1;
        std::memcpy(values, table.frame + 1, sizeof(float) * static_cast<size_t>(table.dim));
        return values;
    }
};

// Weighted sum of int8 tokens, times the factor (and alpha), plus the centre. `pairs` of tokens, or 0: as the weights say.
template <class Isa, bool stream, bool weighted, int pairs = 0, class Dim>
MEMREC_INLINE inline void write_sum(const Tokens& tokens, const Weights& weights, Dim dim, float factor, float alpha,
                                    const float* centre, float* out) {
    for_columns<Isa>(dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
        using Lanes = decltype(lanes);
        constexpr int n = decltype(blocks)::value;
        typename Lanes::Sum sum[n];
        const auto first = Lanes::weights(weights.of_pair[0]);
        for (int b = 0; b < n; ++b) {
            const int at = column + b * Lanes::lanes;
            sum[b] = Lanes::pair(tokens.at[0] + at, tokens.at[1] + at, first);
        }
        for (int p = 1; p < (pairs ? pairs : weights.pairs); ++p) {
            const auto by = Lanes::weights(weights.of_pair[p]);
            for (int b = 0; b < n; ++b) {
                const int at = column + b * Lanes::lanes;
                sum[b] = Lanes::add(sum[b], Lanes::pair(tokens.at[2 * p] + at, tokens.at[2 * p + 1] + at, by));
            }
        }
        for (int b = 0; b < n; ++b) {
            const int at = column + b * Lanes::lanes;
            auto floats = Lanes::multiply(Lanes::to_floats(sum[b]), factor);
            if (weighted) floats = Lanes::multiply(floats, alpha);
            if (centre) floats = Lanes::add(floats, Lanes::load(centre + at));
            Lanes::template store<stream>(out + at, floats);
        }
    });
}

// Reads the codes of one level, or of the base: those of the base, and behind them the level's own.
template <class Isa>
class CodeReader {
  public:
    CodeReader(const Level* level, const Table& table, const Slots& slots)
        : depth(level ? level->depth : table.base_depth),
          dim_(table.dim),
          base_{table.base, slots.id, table.base_bits, table.base_code.runs, table.base_code.count},
          own_{} {
        if (level) own_ = {level->codes, slots.place, level->entry_bits, level->code.runs, level->code.count};
    }

    const int depth;

    // One token per stage.
    MEMREC_INLINE void read(int slot, Tokens& tokens) const {
        if (base_.count) read(base_, slot, tokens);
        if (own_.count) read(own_, slot, tokens);
        tokens.close(depth);
    }

  private:
    struct Part {
        const uint8_t* codes;
        const uint64_t* numbers;  // by slot
        uint64_t bits;            // of a code
        const Run* runs;
        int count;
    };

    // A run may write past its last stage.
    MEMREC_INLINE void read(const Part& part, int slot, Tokens& tokens) const {
        const uint64_t position = part.numbers[slot] * part.bits;
        for (int r = 0; r < part.count; ++r) {
            const Run& run = part.runs[r];
            const uint64_t bit = position + static_cast<uint64_t>(run.first_bit);
            Isa::read_run(run, load_64(part.codes + (bit >> 3)) >> (bit & 7), dim_, tokens.at + run.first_stage);
        }
    }

    const int dim_;
    const Part base_;
    Part own_;
};

template <class Isa>
struct Write {
    template <bool stream>
    static void write(const Span& span, Slots& slots) {
        const Table& table = *span.table;
        const int* counts = span.counts;
        const auto list_of = [&](int form) { return slots.list[form] + span.first; };
        for (int i = 0; i < counts[kZero]; ++i) clear(row_of(span, list_of(kZero)[i]), table.dim);
        if (table.kept) {
            write_rows<stream>(table.kept_rows, table.rows, span, slots.id, list_of(kBase), counts[kBase]);
            return;
        }
        if (table.base_depth)
            write_codes<stream>(nullptr, span, slots, list_of(kBase), counts[kBase]);
        else if (table.hashing.tokens)
            write_hashed<stream>(span, slots, list_of(kBase), counts[kBase]);
        else
            write_centre<stream>(span, list_of(kBase), counts[kBase]);
        for (int l = 0; l < table.levels; ++l) {
            if (table.level[l].stored)
                write_rows<stream>(table.level[l].rows, table.level[l].index.count, span, slots.place, list_of(1 + l), counts[1 + l]);
            else
                write_codes<stream>(&table.level[l], span, slots, list_of(1 + l), counts[1 + l]);
        }
    }

    static float* row_of(const Span& span, int slot) { return span.out + (slot - span.first) * span.stride; }

    template <bool stream>
    static void write_codes(const Level* level, const Span& span, const Slots& slots, const uint16_t* list, int n) {
        if (!n) return;
        const Table& table = *span.table;
        const CodeReader<Isa> reader(level, table, slots);
        const int32_t shift = table.stage[reader.depth - 1].shift;
        const float factor = load_at<float>(table.frame, 0) * power_of_half(shift);
        const Weights& weights = level ? level->weights : table.base_weights;
        AlignedCentre aligned;
        const float* centre = aligned.of(table, n);
        Tokens ring[kRing];
        const auto sum = [&](int i, auto pairs, auto dim) MEMREC_INLINE {
            write_sum<Isa, stream, false, decltype(pairs)::value>(ring[i % kRing], weights, dim, factor, 1.0f, centre,
                                                                  row_of(span, list[i]));
        };
        const bool ask = !span.asked && codebook_bytes(table, reader.depth) > kInCache;
        with_dim(table.dim, [&](auto dim) MEMREC_INLINE {
            with_pairs(weights.pairs, [&](auto pairs) MEMREC_INLINE {
                for (int i = 0; i < n + kToSum; ++i) {
                    if (i < n) reader.read(list[i], ring[i % kRing]);
                    if (ask && i >= kToAsk && i - kToAsk < n) ask_for(ring[(i - kToAsk) % kRing], reader.depth, dim);
                    if (i >= kToSum) sum(i - kToSum, pairs, dim);
                }
            });
        });
    }

    static void ask_for_codes(const Span& span, const Slots& slots) {
        const Table& table = *span.table;
        Tokens tokens[2];
        for (int form = table.base_depth ? 0 : 1; form <= (table.kept ? 0 : table.levels); ++form) {
            const Level* level = form ? &table.level[form - 1] : nullptr;
            if (level && level->stored) continue;
            const CodeReader<Isa> reader(level, table, slots);
            const uint16_t* list = slots.list[form] + span.first;
            for (int i = 0; i <= span.counts[form]; ++i) {
                if (i < span.counts[form]) reader.read(list[i], tokens[i % 2]);
                if (i) ask_for(tokens[(i - 1) % 2], reader.depth, table.dim);
            }
        }
    }

    template <class Dim>
    MEMREC_INLINE static void ask_for(const Tokens& tokens, int count, Dim dim) {
        if (dim <= kLineBytes) {
            for (int s = 0; s < count; ++s) MEMREC_PREFETCH(tokens.at[s]);
            return;
        }
        for (int s = 0; s < count; ++s)
            for (int32_t at = 0; at < dim; at += kLineBytes) MEMREC_PREFETCH(tokens.at[s] + at);
    }

    template <bool stream>
    static void write_hashed(const Span& span, const Slots& slots, const uint16_t* list, int n) {
        const Table& table = *span.table;
        const Hashing& hashing = table.hashing;
        const float* wide[kMostTokens];
        Tokens tokens;
        Weights weights;
        const auto unit = load_at<float>(hashing.scale, 0);
        AlignedCentre aligned;
        const float* centre = aligned.of(table, n);
        for (int j = 0; j < hashing.k; ++j) weights.append(j, 1);
        const auto write_one = [&](int i, auto dim) MEMREC_INLINE {
            const Hash hash = {slots.h1[span.first + i], slots.h2[span.first + i]};
            float* out = row_of(span, list[i]);
            float alpha = 1.0f;
            if (hashing.k_weights) {
                const uint16_t* block = hashing.weights + weight_block(hash, hashing.blocks) * kWeightLanes;
                alpha = Isa::to_float(load_at<uint16_t>(block, hash.h2 & 15));
                for (int j = 1; j < hashing.k_weights; ++j)
                    alpha += Isa::to_float(load_at<uint16_t>(block, (hash.h2 >> (4 * j)) & 15));
            }
            for (int j = 0; j < hashing.k; ++j) {
                const auto at = static_cast<int64_t>(token_number(hash, j, hashing.rows)) * table.dim;
                if (hashing.whole)
                    tokens.at[j] = static_cast<const int8_t*>(hashing.tokens) + at;
                else
                    wide[j] = static_cast<const float*>(hashing.tokens) + at;
            }
            tokens.close(hashing.k);
            if (!hashing.whole)
                write_wide<stream>(wide, hashing, table, alpha, out);
            else if (hashing.k_weights)
                write_sum<Isa, stream, true>(tokens, weights, dim, unit, alpha, centre, out);
            else
                write_sum<Isa, stream, false>(tokens, weights, dim, unit, 1.0f, centre, out);
        };
        with_dim(table.dim, [&](auto dim) MEMREC_INLINE {
            for (int i = 0; i < n; ++i) write_one(i, dim);
        });
    }

    template <bool stream>
    static void write_wide(const float* const* tokens, const Hashing& hashing, const Table& table, float alpha,
                           float* out) {
        for_columns<Isa>(table.dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
            using Lanes = decltype(lanes);
            for (int b = 0; b < decltype(blocks)::value; ++b) {
                const int at = column + b * Lanes::lanes;
                auto sum = Lanes::load(tokens[0] + at);
                for (int j = 1; j < hashing.k; ++j) sum = Lanes::add(sum, Lanes::load(tokens[j] + at));
                if (hashing.k_weights) sum = Lanes::multiply(sum, alpha);
                Lanes::template store<stream>(out + at, Lanes::add(sum, Lanes::load(table.frame + 1 + at)));
            }
        });
    }

    template <bool stream>
    static void write_centre(const Span& span, const uint16_t* list, int n) {
        const Table& table = *span.table;
        for (int i = 0; i < n; ++i) {
            float* out = row_of(span, list[i]);
            for_columns<Isa>(table.dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
                using Lanes = decltype(lanes);
                for (int b = 0; b < decltype(blocks)::value; ++b) {
                    const int at = column + b * Lanes::lanes;
                    Lanes::template store<stream>(out + at, Lanes::load(table.frame + 1 + at));
                }
            });
        }
    }

    template <bool stream>
    static void write_rows(const Rows& rows, uint64_t held, const Span& span, const uint64_t* numbers,
                           const uint16_t* list, int n) {
        const int64_t bytes = row_bytes(rows.codec, span.table->dim);
        const bool prefetch = span.last - span.first >= kShort && static_cast<int64_t>(held) * bytes > kInCache;
        const auto each_row = [&](auto write_row) MEMREC_INLINE {
            for (int i = 0; i < (prefetch ? (n < kAhead ? n : kAhead) : 0); ++i) prefetch_row(rows, numbers[list[i]], bytes);
            for (int i = 0; i < n; ++i) {
                if (prefetch && i + kAhead < n) prefetch_row(rows, numbers[list[i + kAhead]], bytes);
                write_row(static_cast<int64_t>(numbers[list[i]]), row_of(span, list[i]));
            }
        };
        if (with_trellis_bits(rows.codec, [&](auto bits) MEMREC_INLINE {
                each_row([&](int64_t number, float* out) MEMREC_INLINE {
                    const auto scale = load_at<uint8_t>(rows.scale, number);
                    write_trellis_row<Isa, stream, decltype(bits)::value>(static_cast<const uint8_t*>(rows.rows) + number * bytes,
                                                                         scale, span.table->dim, out);
                });
            }))
            return;
        // What gives a row's loader is called once per row, the loader for each of its vectors.
        const auto write_with = [&](auto loader_of, auto dim) MEMREC_INLINE {
            each_row([&](int64_t number, float* out) MEMREC_INLINE {
                const auto load = loader_of(number);
                for_columns<Isa>(dim, [&](auto lanes, auto blocks, int column) MEMREC_INLINE {
                    using Lanes = decltype(lanes);
                    for (int b = 0; b < decltype(blocks)::value; ++b) {
                        const int at = column + b * Lanes::lanes;
                        Lanes::template store<stream>(out + at, load(lanes, number * dim + at));
                    }
                });
            });
        };
        const auto write_all = [&](auto loader_of) MEMREC_INLINE {
            with_dim(span.table->dim, [&](auto dim) MEMREC_INLINE { write_with(loader_of, dim); });
        };
        switch (rows.codec) {
            case Codec::fp32:
                write_all([&](int64_t) MEMREC_INLINE {
                    return [&](auto lanes, int64_t at) MEMREC_INLINE { return decltype(lanes)::load(static_cast<const float*>(rows.rows) + at); };
                });
                break;
            case Codec::bf16:
                write_all([&](int64_t) MEMREC_INLINE {
                    return [&](auto lanes, int64_t at) MEMREC_INLINE {
                        return decltype(lanes)::load_bf16(static_cast<const uint16_t*>(rows.rows) + at);
                    };
                });
                break;
            case Codec::fp16:
                write_all([&](int64_t) MEMREC_INLINE {
                    return [&](auto lanes, int64_t at) MEMREC_INLINE {
                        return decltype(lanes)::load_fp16(static_cast<const uint16_t*>(rows.rows) + at);
                    };
                });
                break;
            case Codec::int8:
                write_all([&](int64_t number) MEMREC_INLINE {
                    const float scale = Isa::to_float(load_at<uint16_t>(rows.scale, number));
                    return [&rows, scale](auto lanes, int64_t at) MEMREC_INLINE {
                        using Lanes = decltype(lanes);
                        return Lanes::multiply(Lanes::load_int8(static_cast<const int8_t*>(rows.rows) + at), scale);
                    };
                });
                break;
            default:  // written above
                break;
        }
    }

    static float power_of_half(int shift) { return from_bits(static_cast<uint32_t>(127 - shift) << 23); }

    static void clear(float* out, int dim) { std::memset(out, 0, sizeof(float) * static_cast<size_t>(dim)); }
};

// Sums of int8 rows whose numbers are given: what a lookup would cost if nothing had to be found.
template <class Isa>
void sum_rows(const int8_t* rows, int32_t dim, const int32_t* numbers, const uint8_t* counts, int32_t most,
              const float* factors, int64_t n, float* out) {
    Tokens tokens;
    Weights weights;
    for (int j = 0; j < most; ++j) weights.append(j, 1);
    for (int64_t i = 0; i < n; ++i) {
        const int count = counts[i];
        for (int j = 0; j < count; ++j) tokens.at[j] = rows + static_cast<int64_t>(numbers[i * most + j]) * dim;
        tokens.close(count);
        weights.pairs = (count + 1) / 2;
        write_sum<Isa, false, false>(tokens, weights, dim, factors[i], 1.0f, nullptr, out + i * dim);
    }
}

inline void read_run_by_one(const Run& run, uint64_t word, int32_t dim, const int8_t** tokens) {
    for (int s = 0; s < kRun; ++s) tokens[s] = run.start[s] + static_cast<int64_t>((word >> run.shift[s]) & run.mask[s]) * dim;
}

}  // namespace
}  // namespace memrec
