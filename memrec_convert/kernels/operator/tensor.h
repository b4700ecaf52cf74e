// A tensor behind torch's stable interface.
#pragma once

#include <stdexcept>
#include <string>

#include "torch_abi.h"

namespace memrec {

[[noreturn]] inline void refuse(const std::string& text) { throw std::runtime_error("memrec: " + text); }

inline void check(AOTITorchError error, const char* what) {
    if (error) refuse(std::string("torch failed in ") + what);
}

// An argument, which a kernel owns, or a result.
class Tensor {
  public:
    explicit Tensor(StableIValue value) : Tensor(reinterpret_cast<AtenTensorHandle>(value)) {}
    explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
    ~Tensor() {
        if (handle_) aoti_torch_delete_tensor_object(handle_);
    }
    Tensor(Tensor&& other) noexcept : Tensor(other) { other.handle_ = nullptr; }
    Tensor& operator=(const Tensor&) = delete;

    // Float32 [rows, columns], uninitialised.
    static Tensor make(int64_t rows, int64_t columns) {
        const int64_t sizes[] = {rows, columns};
        return make(2, sizes, aoti_torch_dtype_float32());
    }

    // Of one or two dimensions, contiguous and uninitialised.
    static Tensor make(int64_t dims, const int64_t* sizes, int32_t dtype) {
        const int64_t last = sizes[dims - 1], strides[] = {dims == 2 ? last : 1, 1};
        if (sizes[0] < 0 || last < 0) refuse("the output would have a negative size.");
        AtenTensorHandle made = nullptr;
        check(aoti_torch_empty_strided(dims, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, &made),
              "allocating the output");
        Tensor output(made);
        output.read();
        return output;
    }

    // Hands the tensor on, as the result of a kernel.
    StableIValue release() {
        const auto value = reinterpret_cast<StableIValue>(handle_);
        handle_ = nullptr;
        return value;
    }

    // Asks torch for what the functions below tell.
    void read() {
        check(aoti_torch_get_device_type(handle_, &device_), "reading a device");
        check(aoti_torch_get_dtype(handle_, &dtype_), "reading a dtype");
        check(aoti_torch_get_dim(handle_, &dims_), "reading a dimension");
        check(aoti_torch_get_sizes(handle_, &sizes_), "reading a shape");
        check(aoti_torch_get_strides(handle_, &strides_), "reading strides");
        check(aoti_torch_get_data_ptr(handle_, &data_), "reading an address");
    }

    void read(const std::string& name, int64_t dims) {
        read();
        check_place(name, dims);
    }

    void read_plain(const std::string& name, int64_t dims, int32_t dtype) {
        read(name, dims);
        if (dtype_ != dtype) refuse(name + " has the wrong dtype.");
        if (!is_plain()) refuse(name + " must be contiguous.");
    }

    void check_place(const std::string& name, int64_t dims) const {
        if (device_ != aoti_torch_device_type_cpu()) refuse(name + " must be on the CPU.");
        if (dims_ != dims) refuse(name + " must have " + std::to_string(dims) + " dimensions.");
    }

    // Bits of a whole number, of a tensor that holds ids or offsets.
    int32_t bits(const std::string& name) const {
        if (dtype_ == aoti_torch_dtype_int64()) return 64;
        if (dtype_ == aoti_torch_dtype_int32()) return 32;
        refuse(name + " must be int64 or int32.");
    }

    // Whether the storage holds every element; one may have been made smaller behind the tensor. Of values of so many bytes.
    void check_storage(const std::string& name, int64_t bytes) const {
        int64_t size = 0, offset = 0, reach = 1;
        check(aoti_torch_get_storage_size(handle_, &size), "reading a storage");
        check(aoti_torch_get_storage_offset(handle_, &offset), "reading a storage");
        for (int64_t d = 0; d < dims_; ++d) {
            if (sizes_[d] == 0) return;
            reach += (sizes_[d] - 1) * strides_[d];
        }
        if ((offset + reach) * bytes > size) refuse(name + " has a storage smaller than itself.");
    }

    void check_float(const std::string& name) const {
        if (dtype_ != aoti_torch_dtype_float32()) refuse(name + " must be float32.");
    }

    bool is_plain() const {
        int64_t expected = 1;
        for (int64_t d = dims_; d-- > 0; expected *= sizes_[d])
            if (sizes_[d] > 1 && strides_[d] != expected) return false;
        return true;
    }

    int64_t at(int64_t place) const {
        return dtype_ == aoti_torch_dtype_int32() ? static_cast<const int32_t*>(data_)[place]
                                                   : static_cast<const int64_t*>(data_)[place];
    }
    template <class T>
    T* data() const {
        return static_cast<T*>(data_);
    }
    int64_t dims() const { return dims_; }
    const int64_t* sizes() const { return sizes_; }
    int64_t size(int64_t dim) const { return sizes_[dim]; }
    int64_t stride(int64_t dim) const { return strides_[dim]; }

  private:
    Tensor(const Tensor&) = default;

    AtenTensorHandle handle_;
    void* data_ = nullptr;
    int64_t *sizes_ = nullptr, *strides_ = nullptr, dims_ = 0;
    int32_t dtype_ = 0, device_ = 0;
};

}  // namespace memrec
