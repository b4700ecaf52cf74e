#include "request.h"

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tensor.h"

namespace memrec {
namespace {

// By the order of names in exports/request.py.
enum Kind { kDense, kIds, kOffsets, kWeights, kRows };
constexpr const char* kNames[] = {"dense", "ids", "offsets", "weights", "ids"};

struct DeleteList {
    void operator()(StableListOpaque* list) const { torch_delete_list(list); }
};
using List = std::unique_ptr<StableListOpaque, DeleteList>;

class Request {
  public:
    explicit Request(const Tensor& forms) : forms_(forms) {}

    // The copy of the next tensor.
    Tensor take(const Tensor& tensor, int64_t place) {
        const int32_t* form = forms_.data<int32_t>() + 3 * place;
        if (form[0] < kDense || form[0] > kRows || form[2] < 0) refuse("forms name a kind that is not there.");
        const auto kind = static_cast<Kind>(form[0]);
        const std::string name = kNames[kind] + (form[1] < 0 ? "" : "_" + std::to_string(form[1]));
        check_shape(tensor, kind, name, form[2]);
        return kind == kDense || kind == kWeights ? copy<float>(tensor, name) : copy<int64_t>(tensor, name);
    }

  private:
    void check_shape(const Tensor& tensor, Kind kind, const std::string& name, int64_t width) {
        tensor.check_place(name, width || kind == kDense ? 2 : 1);
        if (tensor.dims() == 2 && tensor.size(1) != width)
            refuse(name + " is " + std::to_string(tensor.size(1)) + " wide, and the network takes " + std::to_string(width) + ".");
        if (kind == kDense || kind == kWeights) tensor.check_float(name);
        tensor.check_storage(name, kind == kDense || kind == kWeights ? 4 : tensor.bits(name) / 8);
        if (kind == kWeights) return check_size(tensor, name, ids_, "as its ids");
        if (kind == kRows) {
            ids_ = tensor.size(0);
            return;
        }
        if (samples_ < 0) samples_ = tensor.size(0);
        check_size(tensor, name, samples_, "as the tensors before it");
        if (kind == kOffsets) check_offsets(tensor, name);
    }
    static void check_size(const Tensor& tensor, const std::string& name, int64_t size, const char* what) {
        if (tensor.size(0) != size)
            refuse(name + " has " + std::to_string(tensor.size(0)) + " entries, not " + std::to_string(size) + " " + what + ".");
    }
    void check_offsets(const Tensor& tensor, const std::string& name) const {
        int64_t before = 0;
        for (int64_t i = 0; i < samples_; ++i) {
            const int64_t start = tensor.at(i * tensor.stride(0));
            if (i ? start < before : start != 0) refuse(name + " must begin with 0 and not fall.");
            before = start;
        }
        if (before > ids_ || (!samples_ && ids_)) refuse(name + " must stay within the ids of its input.");
    }

    template <class T>
    static Tensor copy(const Tensor& tensor, const std::string& name) {
        constexpr bool real = sizeof(T) == sizeof(float);
        Tensor made = Tensor::make(tensor.dims(), tensor.sizes(), real ? aoti_torch_dtype_float32() : aoti_torch_dtype_int64());
        const int64_t rows = tensor.size(0), columns = tensor.dims() == 2 ? tensor.size(1) : 1;
        const bool alike = real || tensor.bits(name) == 64;
        if (alike && tensor.is_plain()) {
            const auto bytes = static_cast<size_t>(rows * columns) * sizeof(T);
            if (bytes) std::memcpy(made.data<T>(), tensor.data<T>(), bytes);
            return made;
        }
        const int64_t across = tensor.dims() == 2 ? tensor.stride(1) : 1;
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t column = 0; column < columns; ++column) {
                const int64_t place = row * tensor.stride(0) + column * across;
                made.data<T>()[row * columns + column] = real ? tensor.data<T>()[place] : static_cast<T>(tensor.at(place));
            }
        return made;
    }

    const Tensor& forms_;
    int64_t samples_ = -1, ids_ = 0;
};

}  // namespace

void take_request(StableIValue* stack, uint64_t, uint64_t) {
    const List given(reinterpret_cast<StableListHandle>(stack[0]));
    Tensor forms(stack[1]);
    size_t count = 0;
    check(torch_list_size(given.get(), &count), "reading a list");
    std::vector<Tensor> tensors;  // all of them, for each is owned from here on
    for (size_t i = 0; i < count; ++i) {
        StableIValue value = 0;
        check(torch_list_get_item(given.get(), i, &value), "reading a list");
        tensors.emplace_back(value);
    }
    forms.read_plain("forms", 2, aoti_torch_dtype_int32());
    if (forms.size(1) != 3 || static_cast<size_t>(forms.size(0)) != count) refuse("forms must have a row of three per tensor.");
    StableListHandle handle = nullptr;
    check(torch_new_list_reserve_size(count, &handle), "making a list");
    List taken(handle);
    Request request(forms);
    for (size_t i = 0; i < count; ++i) {
        tensors[i].read();
        Tensor copied = request.take(tensors[i], static_cast<int64_t>(i));
        check(torch_list_push_back(handle, copied.release()), "filling a list");
    }
    stack[0] = reinterpret_cast<StableIValue>(taken.release());
}

}  // namespace memrec
