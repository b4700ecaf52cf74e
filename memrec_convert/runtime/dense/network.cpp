#include "network.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

#include "lookup/engine.h"

namespace memrec {
namespace {

constexpr int64_t kLeastBlock = 16, kMostBlock = 192;
constexpr int64_t kChunk = 32;  // samples whose vectors lie side by side before their pairs are multiplied
constexpr int64_t kProductsPerThread = 1 << 20;

// Where a block's numbers lie in a thread's memory, in floats; all rows begin on a cache line.
struct Plan {
    int64_t hidden, joined, crossed, slot, slots, words;  // per sample; slots: of a chunk, which has fewer samples
    int64_t dense_width, table_width;

    explicit Plan(const Network& network) {
        hidden = words = 0;
        for (const auto* part : {&network.bottom, &network.cross, &network.top})
            for (const Layer* layer : *part) {
                hidden = std::max(hidden, layer->columns * kLanes);
                words = std::max(words, layer->stride);
            }
        table_width = 0;
        for (const int64_t width : network.widths) table_width += width;
        dense_width = network.bottom.empty() ? network.dense_inputs : network.bottom.back()->outputs;
        const bool pairs = network.interaction == Interaction::pairs;
        slot = pairs ? round_up(dense_width, kLanes) : 0;
        slots = pairs ? slot * (1 + static_cast<int64_t>(network.widths.size())) : 0;
        const int64_t wide = pairs ? network.top[0]->inputs : dense_width + table_width;
        joined = round_up(std::max(wide, network.top[0]->inputs), kLanes);
        crossed = network.interaction == Interaction::crossed ? joined : 0;
    }
    int64_t per_sample() const { return hidden + joined + crossed + words + kLanes; }
    int64_t block(const DenseKernel& kernel) const {
        const int64_t fits = (kernel.cache_bytes / 4 - slots * kChunk) / per_sample();
        return std::min(kMostBlock, std::max(kLeastBlock, fits / kLeastBlock * kLeastBlock));
    }
    int64_t floats(int64_t block) const {
        return round_up(block, kTileRows) * per_sample() + slots * std::min(block, kChunk) + 2 * kLanes;
    }
};

// A thread's memory, kept from call to call.
float* take_memory(int64_t floats) {
    static thread_local std::unique_ptr<Memory> memory;
    const auto bytes = static_cast<uint64_t>(4 * floats);
    if (!memory || memory->size() < bytes) memory = make_room(bytes);
    return reinterpret_cast<float*>(memory->writable());
}

class Block {
  public:
    Block(const Network& network, const DenseKernel& kernel, const Samples& samples, const Plan& plan, int64_t first, int64_t count)
        : network_(network), kernel_(kernel), samples_(samples), plan_(plan), first_(first), count_(count) {
        float* next = take_memory(plan.floats(count));
        const auto take = [&](int64_t floats) {
            float* start = next;
            next += round_up(floats, kLanes);
            return start;
        };
        hidden_ = take(count * plan.hidden);
        joined_ = take(count * plan.joined);
        crossed_ = take(count * plan.crossed);
        slots_ = take(std::min(count, kChunk) * plan.slots);
        scratch_.scale = take(count);
        scratch_.words = reinterpret_cast<uint32_t*>(take(round_up(count, kTileRows) * plan.words));
    }

    // False where an id is outside its table.
    bool run(float* logits) {
        if (network_.interaction == Interaction::pairs ? !pair() : !join()) return false;
        if (network_.interaction == Interaction::crossed) cross();
        const float* rows = run_layers(network_.top, crossed_at(), plan_.joined);
        for (int64_t s = 0; s < count_; ++s) logits[first_ + s] = rows[s * plan_.hidden];
        if (network_.interaction == Interaction::factors) add_factors(logits + first_);
        return true;
    }

  private:
    const float* crossed_at() const { return network_.interaction == Interaction::crossed ? crossed_ : joined_; }

    const float* run_layers(const std::vector<const Layer*>& layers, const float* rows, int64_t stride) {
        for (const Layer* layer : layers) {
            kernel_.run(*layer, rows, stride, count_, scratch_, hidden_, plan_.hidden, true);
            rows = hidden_;
            stride = plan_.hidden;
        }
        return rows;
    }

    const float* dense_rows() const { return samples_.dense + first_ * samples_.dense_stride; }

    // Vectors of samples [from, from + count) of the block, table t's at out + places(t) and `stride` apart.
    template <class F>
    bool embed(int64_t from, int64_t count, float* out, int64_t stride, F place) {
        const int64_t first = first_ + from, tables = static_cast<int64_t>(network_.widths.size());
        if (!samples_.bags) {
            int64_t column = 0;
            for (int64_t t = 0; t < tables; column += network_.widths[static_cast<size_t>(t++)])
                for (int64_t s = 0; s < count; ++s)
                    std::memcpy(out + s * stride + place(t), samples_.vectors + (first + s) * samples_.vector_stride + column,
                                sizeof(float) * static_cast<size_t>(network_.widths[static_cast<size_t>(t)]));
            return true;
        }
        static thread_local std::vector<Bags> bags;
        bags.assign(samples_.bags, samples_.bags + tables);
        for (int64_t t = 0; t < tables; ++t) {
            Bags& own = bags[static_cast<size_t>(t)];
            own.ids = static_cast<const char*>(own.ids) + first * own.stride * (own.narrow ? 4 : 8);
            own.count = count;
            own.out = out + place(t);
            own.out_stride = stride;
        }
        const Finding finding = look_up({bags.data(), tables, count, samples_.lookup, false, nullptr}, nullptr, 1);
        if (finding.fault == Fault::memory) throw std::bad_alloc();
        return finding.fault == Fault::none;
    }

    // The top's input: the dense part, then pairs, then what fills the row up.
    bool pair() {
        const float* dense = run_layers(network_.bottom, dense_rows(), samples_.dense_stride);
        const auto vectors = 1 + static_cast<int64_t>(network_.widths.size());
        const auto dense_bytes = sizeof(float) * static_cast<size_t>(plan_.dense_width);
        if (plan_.slot != plan_.dense_width) std::memset(slots_, 0, sizeof(float) * static_cast<size_t>(std::min(count_, kChunk) * plan_.slots));
        for (int64_t from = 0; from < count_; from += kChunk) {
            const int64_t count = std::min(kChunk, count_ - from);
            if (!embed(from, count, slots_, plan_.slots, [&](int64_t t) { return (t + 1) * plan_.slot; })) return false;
            for (int64_t s = 0; s < count; ++s) {
                const float* own = dense + (from + s) * plan_.hidden;
                float *slots = slots_ + s * plan_.slots, *row = joined_ + (from + s) * plan_.joined;
                std::memcpy(slots, own, dense_bytes);
                std::memset(row, 0, sizeof(float) * static_cast<size_t>(plan_.joined));
                std::memcpy(row, own, dense_bytes);
                kernel_.pairs(slots, vectors, plan_.slot, network_.places.data(), row + plan_.dense_width);
            }
        }
        return true;
    }

    // The dense part and all vectors side by side; a factorisation machine's own columns come first and last.
    bool join() {
        const bool factors = network_.interaction == Interaction::factors;
        const float* dense = run_layers(network_.bottom, dense_rows(), samples_.dense_stride);
        const int64_t stride = network_.bottom.empty() ? samples_.dense_stride : plan_.hidden;
        int64_t before = 0;  // columns of the dense part
        for (int64_t t = 0; factors && t < network_.fields; ++t) before += network_.widths[static_cast<size_t>(t)];
        for (int64_t s = 0; s < count_; ++s) {
            float* row = joined_ + s * plan_.joined;
            std::memset(row, 0, sizeof(float) * static_cast<size_t>(plan_.joined));
            std::memcpy(row + before, dense + s * stride, sizeof(float) * static_cast<size_t>(plan_.dense_width));
        }
        return embed(0, count_, joined_, plan_.joined, [&](int64_t t) {
            int64_t place = factors && t < network_.fields ? 0 : plan_.dense_width;
            for (int64_t other = 0; other < t; ++other) place += network_.widths[static_cast<size_t>(other)];
            return place;
        });
    }

    // x = x0 * (W (V x) + b) + x for each cross layer.
    void cross() {
        std::memcpy(crossed_, joined_, sizeof(float) * static_cast<size_t>(count_ * plan_.joined));
        for (size_t l = 0; l + 1 < network_.cross.size(); l += 2) {
            kernel_.run(*network_.cross[l], crossed_, plan_.joined, count_, scratch_, hidden_, plan_.hidden, true);
            kernel_.run(*network_.cross[l + 1], hidden_, plan_.hidden, count_, scratch_, hidden_, plan_.hidden, true);
            for (int64_t s = 0; s < count_; ++s) {
                const float *first = joined_ + s * plan_.joined, *own = hidden_ + s * plan_.hidden;
                float* row = crossed_ + s * plan_.joined;
                for (int64_t k = 0; k < network_.cross[l + 1]->outputs; ++k) row[k] += first[k] * own[k];
            }
        }
    }

    // To each logit: half of (sum squared - sum of squares) over the factors, the first order, and the tables of one column.
    void add_factors(float* logits) const {
        const int64_t dim = network_.widths[0], rows = network_.fields * dim;
        const int64_t others = static_cast<int64_t>(network_.widths.size()) - network_.fields;
        const int64_t weighed = network_.linear == Linear::rows ? rows : network_.linear == Linear::dense ? plan_.dense_width : 0;
        for (int64_t s = 0; s < count_; ++s) {
            const float* row = joined_ + s * plan_.joined;
            float pairs = 0.0f, first_order = 0.0f;
            for (int64_t k = 0; k < dim; ++k) {
                float sum = 0.0f, squares = 0.0f;
                for (int64_t t = 0; t < network_.fields; ++t) {
                    sum += row[t * dim + k];
                    squares += row[t * dim + k] * row[t * dim + k];
                }
                pairs += sum * sum - squares;
            }
            const float* of = network_.linear == Linear::dense ? row + rows : row;
            for (int64_t k = 0; k < weighed; ++k) first_order += network_.first_order[k] * of[k];
            logits[s] += 0.5f * pairs + first_order;
            for (int64_t t = 0; t < others; ++t) logits[s] += row[rows + plan_.dense_width + t];
        }
    }

    const Network& network_;
    const DenseKernel& kernel_;
    const Samples& samples_;
    const Plan& plan_;
    const int64_t first_, count_;
    float *hidden_, *joined_, *crossed_, *slots_;
    Operand scratch_;
};

struct Work {
    const Network& network;
    const DenseKernel& kernel;
    const Samples& samples;
    const Plan& plan;
    float* logits;
    int64_t block;
    std::atomic<bool> outside{false}, without_memory{false};
};

void run_block(void* context, int64_t number) {
    auto& work = *static_cast<Work*>(context);
    const int64_t first = number * work.block, count = std::min(work.block, work.samples.count - first);
    try {
        if (!Block(work.network, work.kernel, work.samples, work.plan, first, count).run(work.logits)) work.outside = true;
    } catch (const std::bad_alloc&) {  // of a thread's memory; it must not leave the thread
        work.without_memory = true;
    }
}

struct LayerWork {
    const Layer& layer;
    const DenseKernel& kernel;
    const RowsIn& rows;
    float* out;
    int64_t out_stride;
    std::atomic<bool> without_memory{false};
};

void run_rows(void* context, int64_t number) {
    auto& work = *static_cast<LayerWork*>(context);
    const int64_t first = number * kMostBlock, count = std::min(kMostBlock, work.rows.count - first);
    try {
        float* memory = take_memory(round_up(count, kTileRows) * (work.layer.stride + 1) + kLanes);
        const Operand scratch = {reinterpret_cast<uint32_t*>(memory + round_up(count, kLanes)), memory};
        work.kernel.run(work.layer, work.rows.start + first * work.rows.stride, work.rows.stride, count, scratch,
                        work.out + first * work.out_stride, work.out_stride, false);
    } catch (const std::bad_alloc&) {
        work.without_memory = true;
    }
}

}  // namespace

bool run_layer(const Layer& layer, const DenseKernel& kernel, const RowsIn& rows, float* out, int64_t out_stride, Pool* pool,
               int threads) {
    LayerWork work{layer, kernel, rows, out, out_stride};
    const int64_t count = (rows.count + kMostBlock - 1) / kMostBlock;
    if (threads < 2 || count < 2 || !pool->run(run_rows, &work, count, threads))
        for (int64_t number = 0; number < count; ++number) run_rows(&work, number);
    return !work.without_memory;
}

int64_t Network::products() const {
    int64_t found = 0;
    for (const auto* part : {&bottom, &cross, &top})
        for (const Layer* layer : *part) found += layer->products();
    return found;
}

Outcome run_network(const Network& network, const DenseKernel& kernel, const Samples& samples, float* logits, Pool* pool,
                    int threads, int64_t block) {
    if (samples.count == 0) return Outcome::done;
    const Plan plan(network);
    const int64_t worth = 1 + samples.count * network.products() / kProductsPerThread;
    const int64_t used = !pool ? 1 : std::min<int64_t>(threads, worth);
    if (block < 1) {  // blocks alike, as many as there are turns of all threads
        const int64_t turns = round_up((samples.count + plan.block(kernel) - 1) / plan.block(kernel), used);
        block = round_up((samples.count + turns - 1) / turns, kernel.rows);
    }
    Work work{network, kernel, samples, plan, logits, block};
    const int64_t count = (samples.count + block - 1) / block;
    if (used < 2 || count < 2 || !pool->run(run_block, &work, count, static_cast<int>(used)))
        for (int64_t number = 0; number < count; ++number) run_block(&work, number);
    return work.without_memory ? Outcome::memory : work.outside ? Outcome::outside : Outcome::done;
}

}  // namespace memrec
