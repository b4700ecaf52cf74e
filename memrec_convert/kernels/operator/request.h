// What a compiled program takes for granted of its inputs, checked before any of it runs.
#pragma once

#include "torch_abi.h"

namespace memrec {

// take_request(tensors, forms): copies of the tensors, contiguous, ids and offsets in int64. `forms` is int32 [n, 3], per tensor
// its kind (`Kind` in request.cpp), the number of its input (-1 for all) and its width (0 where it has one dimension).
// std::runtime_error names the first tensor that does not fit with the others.
void take_request(StableIValue* stack, uint64_t inputs, uint64_t outputs);

}  // namespace memrec
