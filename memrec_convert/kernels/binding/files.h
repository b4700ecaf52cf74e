// Bytes of files, for Python: read and summed with the GIL released once for many.
#pragma once

#include "stable_python.h"

PyObject* sum_crc32(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* read_pieces(PyObject*, PyObject* const* args, Py_ssize_t count);
