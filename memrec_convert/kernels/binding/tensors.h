// Torch's tensors without torch's headers: through the table of functions that DLPack 1.3 lays down and that torch keeps
// at torch.Tensor.__dlpack_c_exchange_api__. One call tells all about a tensor, one makes one, where Python's own way
// takes ten, each through code that a lookup has driven out of the caches.
#pragma once

#include <cstdint>

namespace memrec {

// Uses this table from now on; false where it is of another major version or lacks a function.
bool set_exchange(const void* table);

// A matrix of ids: strides in ids.
struct Grid {
    const void* ids;
    bool narrow;  // int32, else int64
    int64_t samples, inputs, sample_stride, input_stride;
};

// False where the Python object, a torch.Tensor, is no int64 or int32 matrix on the CPU; a Python error may be set then.
bool read_grid(void* tensor, Grid& grid);

// A matrix of float32, by rows without gaps inside; stride in floats.
struct Rows32 {
    const float* data;
    int64_t rows, columns, stride;
};

// False where the Python object, a torch.Tensor, is no such matrix on the CPU; a Python error may be set then.
bool read_rows32(void* tensor, Rows32& rows);

// Memory of a tensor to be, from a cache line on. The last one to come back is the next to go out, if it is large enough.
struct Output;
Output* take_output(int64_t floats);  // null without memory
float* memory_of(Output* output);
void give_back(Output* output);
int64_t idle_output_bytes();

// A new float32 torch.Tensor of the output's memory, which comes back with the last tensor on it; null and a Python error
// where torch makes none. Of one to three dimensions.
void* make_tensor(Output* output, int dimensions, const int64_t* shape);

}  // namespace memrec
