#include "tensors.h"

#include <atomic>
#include <cstddef>
#include <new>

#include "lookup/tables.h"

namespace memrec {
namespace {

// As DLPack 1.x lays them out.
struct Version {
    uint32_t major, minor;
};

struct DataType {
    uint8_t kind, bits;
    uint16_t lanes;
};

constexpr int32_t kCpu = 1;
constexpr uint8_t kInteger = 0, kFloat = 2;

struct View {
    void* data;
    int32_t device, device_number;
    int32_t dimensions;
    DataType type;
    int64_t* shape;
    int64_t* strides;  // in elements
    uint64_t byte_offset;
};

struct Owned {
    Version version;
    void* owner;
    void (*release)(Owned* self);
    uint64_t flags;
    View view;
};

struct Exchange {
    Version version;
    const void* older;
    int (*allocate)(View*, Owned**, void*, void (*)(void*, const char*, const char*));
    int (*own)(void* object, Owned** made);
    int (*to_object)(Owned* tensor, void** object);
    int (*look_at)(void* object, View* view);
    int (*stream)(int32_t, int32_t, void**);
};

// Laid out once more by hand, so each is held against the numbers of dlpack.h on machines of 64 bits.
static_assert(sizeof(void*) == 8, "the layouts below are those of 64-bit machines");
static_assert(sizeof(DataType) == 4 && offsetof(DataType, bits) == 1 && offsetof(DataType, lanes) == 2, "DLDataType");
static_assert(sizeof(View) == 48 && offsetof(View, device) == 8 && offsetof(View, device_number) == 12 &&
                  offsetof(View, dimensions) == 16 && offsetof(View, type) == 20 && offsetof(View, shape) == 24 &&
                  offsetof(View, strides) == 32 && offsetof(View, byte_offset) == 40,
              "DLTensor");
static_assert(sizeof(Owned) == 80 && offsetof(Owned, owner) == 8 && offsetof(Owned, release) == 16 &&
                  offsetof(Owned, flags) == 24 && offsetof(Owned, view) == 32,
              "DLManagedTensorVersioned");
static_assert(sizeof(Exchange) == 56 && offsetof(Exchange, older) == 8 && offsetof(Exchange, allocate) == 16 &&
                  offsetof(Exchange, own) == 24 && offsetof(Exchange, to_object) == 32 && offsetof(Exchange, look_at) == 40 &&
                  offsetof(Exchange, stream) == 48,
              "DLPackExchangeAPI");

constexpr Version kVersion = {1, 0};  // what is made here is as old as that
constexpr int kMostDimensions = 3;

std::atomic<const Exchange*> exchange{nullptr};

}  // namespace

struct alignas(kLineBytes) Output {  // the floats lie behind it
    Owned owned;
    int64_t shape[kMostDimensions], strides[kMostDimensions];
    int64_t floats;  // that there is room for
};

namespace {

std::atomic<Output*> idle{nullptr};

void free_output(Output* output) { ::operator delete(output, std::align_val_t{kLineBytes}); }

}  // namespace

bool set_exchange(const void* table) {
    const auto* found = static_cast<const Exchange*>(table);
    if (found->version.major != kVersion.major || !found->look_at || !found->to_object) return false;
    exchange = found;
    return true;
}

bool read_grid(void* tensor, Grid& grid) {
    View view;
    if (exchange.load()->look_at(tensor, &view) != 0) return false;
    const bool integers = view.type.kind == kInteger && view.type.lanes == 1 && (view.type.bits == 64 || view.type.bits == 32);
    if (view.device != kCpu || view.dimensions != 2 || !integers || !view.strides) return false;
    grid = {static_cast<const char*>(view.data) + view.byte_offset, view.type.bits == 32, view.shape[0], view.shape[1],
            view.strides[0], view.strides[1]};
    return true;
}

bool read_rows32(void* tensor, Rows32& rows) {
    View view;
    if (exchange.load()->look_at(tensor, &view) != 0) return false;
    const bool floats = view.type.kind == kFloat && view.type.lanes == 1 && view.type.bits == 32;
    if (view.device != kCpu || view.dimensions != 2 || !floats || !view.strides) return false;
    if (view.shape[1] > 1 && view.strides[1] != 1) return false;
    rows = {reinterpret_cast<const float*>(static_cast<const char*>(view.data) + view.byte_offset), view.shape[0], view.shape[1],
            view.shape[0] > 1 ? view.strides[0] : view.shape[1]};
    return true;
}

Output* take_output(int64_t floats) {
    Output* output = idle.exchange(nullptr);
    if (output && output->floats >= floats) return output;
    if (output) free_output(output);
    void* memory = ::operator new(sizeof(Output) + sizeof(float) * static_cast<size_t>(floats), std::align_val_t{kLineBytes}, std::nothrow);
    if (!memory) return nullptr;
    output = new (memory) Output{};
    output->floats = floats;
    return output;
}

float* memory_of(Output* output) { return reinterpret_cast<float*>(output + 1); }

void give_back(Output* output) {
    if (Output* other = idle.exchange(output)) free_output(other);
}

int64_t idle_output_bytes() {
    Output* output = idle.exchange(nullptr);
    if (!output) return 0;
    const int64_t bytes = static_cast<int64_t>(sizeof(Output)) + static_cast<int64_t>(sizeof(float)) * output->floats;
    give_back(output);
    return bytes;
}

void* make_tensor(Output* output, int dimensions, const int64_t* shape) {
    int64_t stride = 1;
    for (int d = dimensions - 1; d >= 0; --d) {
        output->shape[d] = shape[d];
        output->strides[d] = stride;
        stride *= shape[d];
    }
    output->owned.version = kVersion;
    output->owned.owner = output;
    output->owned.release = [](Owned* self) { give_back(static_cast<Output*>(self->owner)); };
    output->owned.flags = 0;
    output->owned.view = {memory_of(output), kCpu, 0, dimensions, {kFloat, 32, 1}, output->shape, output->strides, 0};
    void* object = nullptr;
    return exchange.load()->to_object(&output->owned, &object) == 0 ? object : nullptr;
}

}  // namespace memrec
