// The encoder for Python: addresses and numbers in, results written to memory of the caller, the GIL released meanwhile.
#pragma once

#include "stable_python.h"

PyObject* encode_rows(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* assign_rows(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* find_means(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* measure_rows(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* transform_rows(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* add_by_nearest(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* square_norms(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* add_to_normal(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* place_ids(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* find_paths(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* solve_positive(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* sum_moment(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* find_spectrum(PyObject*, PyObject* const* args, Py_ssize_t count);
