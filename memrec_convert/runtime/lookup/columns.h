// Loops over the columns of a row, in the lanes of an instruction set.
#pragma once

#include "simd_scalar.h"
#include "slots.h"

namespace memrec {
namespace {

// Calls f(lanes, blocks, column) over a row of `dim`, the widest lanes first.
template <class Isa, class F>
MEMREC_INLINE inline void for_columns(int dim, F f) {
    using Wide = typename Isa::Wide;
    int column = 0;
    for (; dim - column >= 2 * Wide::lanes; column += 2 * Wide::lanes) f(Wide{}, Const<2>{}, column);
    if (dim - column >= Wide::lanes) {
        f(Wide{}, Const<1>{}, column);
        column += Wide::lanes;
    }
    if (column < dim) Isa::for_rest(dim, column, f);
}

template <class Lanes, class F>
MEMREC_INLINE inline void for_one(int dim, int& column, F f) {
    if (dim - column < Lanes::lanes) return;
    f(Lanes{}, Const<1>{}, column);
    column += Lanes::lanes;
}

template <class F>
MEMREC_INLINE inline void for_last(int dim, int& column, F f) {
    for (; column < dim; ++column) f(Plain<1>{}, Const<1>{}, column);
}

// Calls f with a table's dim, as a number that the compiler knows where it is a usual one: loops over columns unroll.
template <class F>
MEMREC_INLINE inline void with_dim(int dim, F f) {
    switch (dim) {
        case 16: return f(Const<16>{});
        case 32: return f(Const<32>{});
        case 64: return f(Const<64>{});
        case 128: return f(Const<128>{});
        default: return f(dim);
    }
}

// The same for the pairs of tokens of a code, whose weights then stay in registers; 0 for unusually many.
template <class F>
MEMREC_INLINE inline void with_pairs(int pairs, F f) {
    switch (pairs) {
        case 1: return f(Const<1>{});
        case 2: return f(Const<2>{});
        case 3: return f(Const<3>{});
        case 4: return f(Const<4>{});
        case 5: return f(Const<5>{});
        default: return f(Const<0>{});
    }
}

}  // namespace
}  // namespace memrec
