// What the Python side holds for the whole process: the instruction set in use, and the threads.
#pragma once

#include "lookup/engine.h"

namespace memrec {

const Kernel* active_kernel();
bool choose_kernel(const char* name);  // false where it is not available

Pool* shared_pool();

}  // namespace memrec
