// What goes wrong inside the library, on its way to the border: a code of memrec.h and a sentence.
#pragma once

#include <stdexcept>
#include <string>

#include "memrec.h"

namespace memrec {

class Failure : public std::runtime_error {
  public:
    Failure(memrec_status code, const std::string& text) : std::runtime_error(text), code(code) {}
    const memrec_status code;
};

[[noreturn]] inline void damaged(const std::string& text) {
    throw Failure(MEMREC_DAMAGED, text + "; convert the source again.");
}

}  // namespace memrec
