// What training does to rows, for Python: addresses and numbers in, the GIL released meanwhile.
#pragma once

#include "stable_python.h"

PyObject* move_rows(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* round_int8(PyObject*, PyObject* const* args, Py_ssize_t count);
