// Memory whose first element begins a cache line, so that whole vectors never lie on two.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace memrec {

template <class T>
struct LineAllocator {
    using value_type = T;
    LineAllocator() = default;
    template <class Other>
    LineAllocator(const LineAllocator<Other>&) {}
    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t{64}); }
    template <class Other>
    bool operator==(const LineAllocator<Other>&) const { return true; }
    template <class Other>
    bool operator!=(const LineAllocator<Other>&) const { return false; }
};

template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

}  // namespace memrec
