// Linear layers and whole networks for Python.
#pragma once

#include "stable_python.h"

namespace memrec {

PyObject* make_layer(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* run_layer(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* make_network(PyObject*, PyObject* description);
PyObject* run_network(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* multiply_pairs(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* pull_pairs(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* dense_speed(PyObject*, PyObject*);

// How many threads torch may use; less than 1 and a Python error where it does not say.
int count_torch_threads();
bool is_tensor(PyObject* object);  // of torch's own class

}  // namespace memrec
