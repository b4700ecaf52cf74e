// What training does to rows, for Python: addresses and numbers in, the GIL released meanwhile.
#pragma once

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

PyObject* move_rows(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* round_int8(PyObject*, PyObject* const* args, Py_ssize_t count);
