// What lookups know of a table: pointers into somebody's tensors and the numbers of its spec. Nothing is owned.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

namespace memrec {

constexpr int kMostStages = 32;
constexpr int kMostLevels = 2;
constexpr int kMostTokens = 64;
constexpr int kWeightLanes = 16;
constexpr int kLineBytes = 64;
constexpr int kBitsPerLine = 8 * (kLineBytes - 4);

enum class Codec : int32_t { fp32 = 0, bf16 = 1, fp16 = 2, int8 = 3, trellis1 = 4, trellis6 = 9 };  // 2 to 5 between
enum class IndexKind : int32_t { bitmap = 0, keys = 1 };
enum class Outside : int32_t { error = 0, clip = 1, hash = 2, zero = 3 };
enum class Pooling : int32_t { none = 0, sum = 1, mean = 2 };

// Rows as a row codec holds them; `scale` has one number per row, fp16 for int8 and a byte for trellis rows.
struct Rows {
    Codec codec;
    const void* rows;
    const void* scale;
};

// Bits of a value in trellis rows; 0 in the other codecs.
inline int trellis_bits(Codec codec) {
    return codec < Codec::trellis1 ? 0 : static_cast<int>(codec) - static_cast<int>(Codec::trellis1) + 1;
}

// Of the codec's `rows`.
inline int64_t row_bytes(Codec codec, int64_t dim) {
    if (const int bits = trellis_bits(codec)) return bits * ((dim + 7) / 8);
    return dim * (codec == Codec::fp32 ? 4 : codec == Codec::int8 ? 1 : 2);
}

// Which ids a level holds. Places are clamped to `count`, so a damaged index can give a wrong row but never a wild read.
struct Index {
    IndexKind kind;
    const uint8_t* data;
    int64_t bytes;
    uint64_t count;
    uint32_t key_bits;
    uint32_t mixed_bits;
    int64_t starts_at;  // of the buckets' 16-bit starts, behind the groups' 32-bit ones
    int64_t keys_at;
    const struct KeyPlaces* places;
    const struct KeyLine* lines;  // the same keys once more, a line per bucket of its own; or null
    uint64_t line_count;
};

// A bucket of keys on one cache line. Buckets divide the mixed ids evenly; a key is an id's lowest 16 mixed bits. The places
// of a bucket's ids follow each other from `first` on; more ids than there is room for show as a count past the room, and
// what is not found in such a line is looked for in the index itself.
constexpr int kKeysPerLine = 29;
struct KeyLine {
    uint32_t first;
    uint16_t held;
    uint16_t keys[kKeysPerLine];
};

// For keys that begin at each bit of a byte: of eight bytes each, which bytes hold the next few keys, and the bit where each
// sixteen bits of those begin. Four keys of at most 14 bits are found in eight bytes, two longer ones.
struct KeyPlaces {
    uint32_t at_once;  // keys: 32 or 16
    uint32_t lanes;    // which sixteen bits of 64 bytes are keys
    uint8_t bytes_of[8][64];
    uint8_t bits_of[8][64];
};

// Some stages of a code that lie within one 64-bit word wherever their first bit falls: read at once.
constexpr int kRun = 8;
struct Run {
    uint64_t shift[kRun], mask[kRun];
    const int8_t* start[kRun];  // of the stage's entries
    int32_t first_bit, first_stage;
};

// The stages of one code, cut into runs. What a lookup of one id needs of a table lies on few cache lines.
struct Code {
    const Run* runs;
    int32_t count;
};

// Powers of two by which the tokens of a code are weighed, two tokens at a time.
struct Weights {
    uint32_t of_pair[kMostTokens / 2 + 1];  // two bytes, twice: half a register's worth is broadcast at a higher price
    int pairs = 0;

    // Of the first token on; the one after the last weighs nothing.
    void append(int token, unsigned weight) {
        uint32_t& both = of_pair[token / 2];
        both = token % 2 ? (both & 0xFF) | (weight << 8) : weight;
        both |= both << 16;
        pairs = token / 2 + 1;
    }
};

struct Level {
    Index index;
    bool stored;  // rows in a codec, else codes from the base's depth down to `depth`
    int32_t depth;
    uint32_t entry_bits;
    const uint8_t* codes;
    Code code;
    Weights weights;  // of all stages down to its depth
    Rows rows;
};

struct Stage {
    uint32_t bits;
    int32_t first;  // its first entry in the joint codebook
    int32_t shift;
};

struct Hashing {
    const void* tokens;  // null where the base is not hashed
    bool whole;          // int8 tokens, summed in integers; else fp32
    const float* scale;
    const uint16_t* weights;  // fp16 [blocks * 16], null where k_weights is 0
    uint32_t rows, blocks, seed;
    int32_t k, k_weights;
};

struct Table {
    uint64_t rows;
    int32_t dim;
    int32_t base_depth, levels;
    uint32_t base_bits;
    int64_t padding;  // an id that reads as zero and is left out of pools, or -1
    const float* frame;  // scale, then the centre
    const int8_t* codebook;
    const uint8_t* base;
    Code base_code;
    Weights base_weights;
    Outside outside;  // as its description says; a request may say otherwise
    Pooling pooling;
    bool kept;
    Rows kept_rows;
    Level level[kMostLevels];
    Hashing hashing;
    int32_t stages;
    Stage stage[kMostStages];
};

// The ids of one table, one per bag where `offsets` is null, and where their vectors go.
struct Bags {
    const Table* table;
    Outside outside;
    bool narrow;          // ids are int32, else int64
    bool narrow_offsets;  // the same of offsets
    const void* ids;
    int64_t stride;  // in ids
    int64_t count;
    const void* offsets;   // [bags]: starts, or null
    const float* weights;  // [count] or null
    float* out;
    int64_t out_stride;  // floats from one bag's vector to the next
};

struct Request {
    const Bags* bags;
    int64_t count;    // of `bags`, each of one table
    int64_t samples;  // bags of each
    const struct Kernel* kernel;
    bool stream;      // stores that pass by the caches; only for vectors on 64-byte boundaries
    uint64_t* clock;  // nanoseconds per step, or null
};

constexpr int kSteps = 4;  // of `clock`: read and mix, index, fetch, decode and write

// What follows from the descriptions of tables; it has to live as long as they are looked up.
class Derived {
  public:
    // Fills in a table's codes and weights, and the places of its keys.
    void complete(Table& table);

  private:
    Code keep(std::vector<Run> runs);
    std::deque<std::vector<Run>> runs_;
};

namespace {  // each instruction set has its own copies of what follows, which it may compile to its own instructions

// The caller's numbers may begin at any byte, so they are read by copies, which cost nothing where that is allowed.
template <class T>
inline T load_at(const void* start, int64_t number) {
    T value;
    std::memcpy(&value, static_cast<const char*>(start) + number * static_cast<int64_t>(sizeof(T)), sizeof value);
    return value;
}

// Of the first `stages` stages.
inline int64_t codebook_bytes(const Table& table, int32_t stages) {
    if (table.kept || !stages) return 0;
    const Stage& last = table.stage[stages - 1];
    return (last.first + (int64_t{1} << last.bits)) * table.dim;
}

inline float* vector_of(const Bags& bags, int64_t sample) { return bags.out + sample * bags.out_stride; }

inline int64_t id_at(const Bags& bags, int64_t position) {
    return bags.narrow ? load_at<int32_t>(bags.ids, position * bags.stride)
                       : load_at<int64_t>(bags.ids, position * bags.stride);
}

inline int64_t start_of(const Bags& bags, int64_t bag, int64_t samples) {
    if (bag >= samples) return bags.count;
    return bags.narrow_offsets ? load_at<int32_t>(bags.offsets, bag) : load_at<int64_t>(bags.offsets, bag);
}

}  // namespace

// A rectangle of the work: tables [first_table, last_table) of samples [first, last).
struct Piece {
    int64_t first_table, last_table, first, last;
};

// How a request is cut: whole tables side by side where there are few samples, runs of samples where there are many.
struct Cut {
    int64_t samples, tables, samples_each, tables_each, across, pieces;  // `each`: of a piece; across: pieces of one table
    bool any_bags;  // of several ids

    Piece piece(int64_t number) const {
        const int64_t first_table = number / across * tables_each, first = number % across * samples_each;
        const int64_t last_table = first_table + tables_each, last = first + samples_each;
        return {first_table, last_table < tables ? last_table : tables, first, last < samples ? last : samples};
    }
};

using RunPieces = void (*)(const Request&, const Cut&, int64_t first, int64_t last);
using FindOutside = bool (*)(const Bags&, uint64_t rows);
using SumRows = void (*)(const int8_t* rows, int32_t dim, const int32_t* numbers, const uint8_t* counts, int32_t most,
                         const float* factors, int64_t n, float* out);

// What one instruction set offers.
struct Kernel {
    const char* name;
    RunPieces run;
    FindOutside any_outside;
    SumRows sum_rows;
};

const Kernel* scalar_kernel();
const Kernel* avx2_kernel();    // null where this build has none
const Kernel* avx512_kernel();  // Ice Lake, Zen 4 and later: F, BW, DQ, VL, VBMI
const Kernel* neon_kernel();

}  // namespace memrec
