// What Python hands to the extension's functions.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

#include "stable_python.h"

namespace memrec {

// Arguments are integers throughout: numbers, and addresses, of which 0 stands for what is left out.
class Arguments {
  public:
    Arguments(const char* name, PyObject* const* args, Py_ssize_t count, Py_ssize_t wanted) {
        if (count != wanted) {
            PyErr_Format(PyExc_TypeError, "%s takes %zd integers, not %zd", name, wanted, count);
            return;
        }
        for (Py_ssize_t i = 0; i < count; ++i) {
            values_.push_back(PyLong_AsLongLong(args[i]));
            if (values_.back() == -1 && PyErr_Occurred()) return;
        }
        whole_ = true;
    }
    explicit operator bool() const { return whole_; }
    int64_t number() { return values_[at_++]; }
    template <class T>
    T* address() {
        return reinterpret_cast<T*>(static_cast<uintptr_t>(number()));
    }

  private:
    std::vector<int64_t> values_;
    size_t at_ = 0;
    bool whole_ = false;
};

// Work without the GIL; out of memory becomes a Python error.
template <class F>
PyObject* freely(F work) {
    bool done = true;
    Py_BEGIN_ALLOW_THREADS;
    try {
        work();
    } catch (const std::bad_alloc&) {
        done = false;
    }
    Py_END_ALLOW_THREADS;
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

}  // namespace memrec
