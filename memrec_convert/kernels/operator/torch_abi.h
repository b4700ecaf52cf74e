// The functions of torch's stable C interface that the operator calls: those behind STABLE_TORCH_LIBRARY, in torch 2.10 and
// later (torch/csrc/stable/c/shim.h, torch/csrc/inductor/aoti_torch/c/shim.h). They are declared here so that the library is
// built without torch, once for all its versions; a test compiles this file together with torch's own.
#pragma once

#include <cstddef>
#include <cstdint>

struct AtenTensorOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
class TorchLibraryOpaque;
using TorchLibraryHandle = TorchLibraryOpaque*;
using AOTITorchError = int32_t;
struct StableListOpaque;
using StableListHandle = StableListOpaque*;
using StableIValue = uint64_t;  // the handle of a tensor or a list, owned, or a whole number

extern "C" {

AOTITorchError aoti_torch_library_init_fragment(const char* name, const char* file, uint32_t line, TorchLibraryHandle* made);
AOTITorchError aoti_torch_library_init_impl(const char* name, const char* key, const char* file, uint32_t line,
                                            TorchLibraryHandle* made);
AOTITorchError aoti_torch_library_def(TorchLibraryHandle library, const char* schema);
AOTITorchError torch_library_impl(TorchLibraryHandle library, const char* name, void (*run)(StableIValue*, uint64_t, uint64_t),
                                  uint64_t abi_version);

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor);
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** data);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* dim);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** sizes);
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** strides);
AOTITorchError aoti_torch_get_storage_size(AtenTensorHandle tensor, int64_t* bytes);
AOTITorchError aoti_torch_get_storage_offset(AtenTensorHandle tensor, int64_t* elements);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* type);
AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t device_type, int32_t device, AtenTensorHandle* made);
AOTITorchError torch_get_num_threads(uint32_t* threads);

AOTITorchError torch_new_list_reserve_size(size_t size, StableListHandle* made);
AOTITorchError torch_list_size(StableListHandle list, size_t* size);
AOTITorchError torch_list_get_item(StableListHandle list, size_t place, StableIValue* item);
AOTITorchError torch_list_push_back(StableListHandle list, StableIValue item);
AOTITorchError torch_delete_list(StableListHandle list);

int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_dtype_uint8();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_dtype_float32();

}  // extern "C"
