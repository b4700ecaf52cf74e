// Lookups in packed tables as torch operators: all tables of a network per call, without Python.
//
// `tables` are the bytes of an artifact (docs/artifact.md), uint8. `plan` is int32 [n, 2], a (table, input) per vector of the
// output, in its order. Each call refuses what does not fit with std::runtime_error, as torch's own checks do.
#include <string>

#include "open_tables.h"
#include "request.h"
#include "tensor.h"

namespace {

using memrec::OpenTables;
using memrec::refuse;
using memrec::Tensor;

constexpr uint64_t kAbiVersion = uint64_t{2} << 56 | uint64_t{10} << 48;  // of torch 2.10, which later ones keep

// What every operator begins with: tables that are sound, and which of them each vector of the output comes from.
struct Plan {
    std::shared_ptr<const OpenTables> tables;
    const int32_t* entries;
    int64_t count;

    Plan(Tensor& packed, Tensor& plan, int64_t inputs) {
        packed.read_plain("tables", 1, aoti_torch_dtype_uint8());
        plan.read_plain("plan", 2, aoti_torch_dtype_int32());
        if (plan.size(1) != 2) refuse("plan must have a table and an input per row.");
        tables = memrec::open_tables(packed.data<uint8_t>(), static_cast<size_t>(packed.size(0)));
        entries = plan.data<int32_t>();
        count = plan.size(0);
        for (int64_t i = 0; i < count; ++i)
            if (table(i) < 0 || static_cast<size_t>(table(i)) >= tables->dims.size() || input(i) < 0 || input(i) >= inputs)
                refuse("plan names a table or an input that is not there.");
    }
    int32_t table(int64_t i) const { return entries[2 * i]; }
    int32_t input(int64_t i) const { return entries[2 * i + 1]; }
    int32_t dim(int64_t i) const { return tables->dims[static_cast<size_t>(table(i))]; }
};

struct Scratch {
    std::vector<memrec_lookup> lookups;
    std::vector<int64_t> numbers;
};

// Kept by each thread, so that it allocates once.
Scratch& scratch() {
    static thread_local Scratch kept;
    kept.lookups.clear();
    kept.numbers.clear();
    return kept;
}

memrec_lookup make_lookup(int32_t table, const void* ids, int32_t id_bits, int64_t count, float* out, int64_t out_stride) {
    memrec_lookup made{};
    made.table = table;
    made.outside = MEMREC_AS_STORED;
    made.id_bits = id_bits;
    made.ids = ids;
    made.id_count = count;
    made.out = out;
    made.out_stride = out_stride;
    return made;
}

void run(const Plan& plan, const memrec_lookup* lookups, int64_t count, int64_t bags) {
    if (!bags) return;
    int64_t ids = 0;
    for (int64_t i = 0; i < count; ++i) ids += lookups[i].id_count;
    memrec_error error;
    if (memrec_look_up(plan.tables->artifact, lookups, count, bags, memrec::pool_for(ids), &error) != MEMREC_OK)
        refuse(error.text);
}

void check_width(const Plan& plan, int64_t width) {
    int64_t sum = 0;
    for (int64_t i = 0; i < plan.count; ++i) sum += plan.dim(i);
    if (sum != width) refuse("the tables of the plan are " + std::to_string(sum) + " wide, not " + std::to_string(width) + ".");
}

// Ids whose rows are one and the same memory, as `expand` makes them, laid out apart.
const void* spread_rows(const Tensor& ids, std::vector<int64_t>& numbers) {
    for (int64_t sample = 0; sample < ids.size(0); ++sample)
        for (int64_t column = 0; column < ids.size(1); ++column) numbers.push_back(ids.at(column * ids.stride(1)));
    return numbers.data();
}

// look_up_ids(tables, ids, plan, width): float32 [B, width] of ids [B, inputs].
void look_up_ids(StableIValue* stack, uint64_t, uint64_t) {
    Tensor packed(stack[0]), ids(stack[1]), entries(stack[2]);
    const auto width = static_cast<int64_t>(stack[3]);
    ids.read("ids", 2);
    const Plan plan(packed, entries, ids.size(1));
    check_width(plan, width);
    const int64_t samples = ids.size(0);
    Tensor out = Tensor::make(samples, width);
    auto& [lookups, numbers] = scratch();
    int32_t bits = ids.bits("ids");
    int64_t sample_stride = samples > 1 ? ids.stride(0) : 1, input_stride = ids.stride(1);
    const void* start = ids.data<void>();
    if (sample_stride < 1) {
        start = spread_rows(ids, numbers);
        bits = 64;
        sample_stride = ids.size(1);
        input_stride = 1;
    }
    int64_t column = 0;
    for (int64_t i = 0; i < plan.count; column += plan.dim(i++)) {
        const auto* from = static_cast<const uint8_t*>(start) + plan.input(i) * input_stride * (bits / 8);
        lookups.push_back(make_lookup(plan.table(i), from, bits, samples, out.data<float>() + column, width));
        lookups.back().id_stride = sample_stride;
    }
    run(plan, lookups.data(), plan.count, samples);
    stack[0] = out.release();
}

// Ids of all inputs, one input after the other, in bags: offsets [inputs * B + 1] from 0, the end among them.
struct Bags {
    Tensor ids, offsets;
    int64_t inputs, samples;
    int32_t bits;

    Bags(StableIValue ids_value, StableIValue offsets_value, StableIValue inputs_value)
        : ids(ids_value), offsets(offsets_value), inputs(static_cast<int64_t>(inputs_value)) {}

    void read() {
        ids.read("ids", 1);
        offsets.read("offsets", 1);
        bits = ids.bits("ids");
        offsets.bits("offsets");
        if (!ids.is_plain() || !offsets.is_plain()) refuse("ids and offsets must be contiguous.");
        const int64_t all = offsets.size(0) - 1;
        if (inputs < 1 || all < 0 || all % inputs) refuse("offsets must be as many as inputs times samples, and the end.");
        samples = all / inputs;
        for (int64_t i = 0; i < inputs; ++i)
            if (first(i) < 0 || first(i) > first(i + 1) || first(i + 1) > ids.size(0))
                refuse("offsets must rise from 0 and stay within the ids.");
    }
    int64_t first(int64_t input) const { return offsets.at(input * samples); }
    int64_t count(int64_t input) const { return first(input + 1) - first(input); }
    const void* ids_of(int64_t input) const { return ids.data<uint8_t>() + first(input) * (bits / 8); }
};

// look_up_bags(tables, ids, offsets, weights, plan, inputs, width): float32 [B, width] of bags as `Bags` has them; weights
// float32, one per id, or empty.
void look_up_bags(StableIValue* stack, uint64_t, uint64_t) {
    Tensor packed(stack[0]), weights(stack[3]), entries(stack[4]);
    Bags bags(stack[1], stack[2], stack[5]);
    const auto width = static_cast<int64_t>(stack[6]);
    bags.read();
    weights.read_plain("weights", 1, aoti_torch_dtype_float32());
    const bool weighted = weights.size(0) > 0;
    if (weighted && weights.size(0) != bags.ids.size(0)) refuse("each id needs a weight of its own.");
    const Plan plan(packed, entries, bags.inputs);
    check_width(plan, width);
    Tensor out = Tensor::make(bags.samples, width);
    auto& [lookups, numbers] = scratch();
    for (int64_t input = 0; input < bags.inputs; ++input)  // offsets of each input begin at 0 for the engine
        for (int64_t b = 0; b < bags.samples; ++b)
            numbers.push_back(bags.offsets.at(input * bags.samples + b) - bags.first(input));
    int64_t column = 0;
    for (int64_t i = 0; i < plan.count; column += plan.dim(i++)) {
        const int32_t input = plan.input(i);
        float* const to = out.data<float>() + column;
        lookups.push_back(make_lookup(plan.table(i), bags.ids_of(input), bags.bits, bags.count(input), to, width));
        lookups.back().offset_bits = 64;
        lookups.back().offsets = numbers.data() + input * bags.samples;
        lookups.back().weights = weighted ? weights.data<float>() + bags.first(input) : nullptr;
    }
    run(plan, lookups.data(), plan.count, bags.samples);
    stack[0] = out.release();
}

// look_up_rows(tables, ids, offsets, plan, inputs, dim): float32 [n, dim], a row per id [n]. Offsets are as `Bags` has them;
// the plan has each input once, and its tables are all `dim` wide.
void look_up_rows(StableIValue* stack, uint64_t, uint64_t) {
    Tensor packed(stack[0]), entries(stack[3]);
    Bags bags(stack[1], stack[2], stack[4]);
    const auto dim = static_cast<int64_t>(stack[5]);
    bags.read();
    const Plan plan(packed, entries, bags.inputs);
    if (bags.first(0) != 0 || bags.first(bags.inputs) != bags.ids.size(0)) refuse("offsets must span all ids.");
    std::vector<int64_t>& seen = scratch().numbers;
    seen.assign(static_cast<size_t>(bags.inputs), 0);
    for (int64_t i = 0; i < plan.count; ++i)
        if (seen[static_cast<size_t>(plan.input(i))]++ || plan.dim(i) != dim)
            refuse("a table is not `dim` wide, or an input comes twice.");
    if (plan.count != bags.inputs) refuse("the plan leaves an input out.");
    Tensor out = Tensor::make(bags.ids.size(0), dim);
    for (int64_t i = 0; i < plan.count; ++i) {
        const int32_t input = plan.input(i);
        float* const to = out.data<float>() + bags.first(input) * dim;
        const int64_t count = bags.count(input);
        const memrec_lookup lookup = make_lookup(plan.table(i), bags.ids_of(input), bags.bits, count, to, dim);
        run(plan, &lookup, 1, count);
    }
    stack[0] = out.release();
}

// The operators' registration, from loading the library until the process ends.
struct Registration {
    TorchLibraryHandle schemas = nullptr, kernels = nullptr;

    Registration() {
        check(aoti_torch_library_init_fragment("memrec", __FILE__, __LINE__, &schemas));
        check(aoti_torch_library_init_impl("memrec", "CPU", __FILE__, __LINE__, &kernels));
        add("look_up_ids", "(Tensor tables, Tensor ids, Tensor plan, int width) -> Tensor", look_up_ids);
        add("look_up_bags",
            "(Tensor tables, Tensor ids, Tensor offsets, Tensor weights, Tensor plan, int inputs, int width) -> Tensor",
            look_up_bags);
        add("look_up_rows", "(Tensor tables, Tensor ids, Tensor offsets, Tensor plan, int inputs, int dim) -> Tensor",
            look_up_rows);
        add("take_request", "(Tensor[] tensors, Tensor forms) -> Tensor[]", memrec::take_request);
    }
    void add(const std::string& name, const char* signature, void (*kernel)(StableIValue*, uint64_t, uint64_t)) {
        check(aoti_torch_library_def(schemas, (name + signature).c_str()));
        check(torch_library_impl(kernels, name.c_str(), kernel, kAbiVersion));
    }
    static void check(AOTITorchError error) { memrec::check(error, "registering an operator"); }
};

const Registration* const registration = new Registration;

}  // namespace
