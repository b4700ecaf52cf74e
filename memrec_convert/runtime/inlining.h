// What compilers are to take into a loop, and what they are to leave out of it.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#define MEMREC_ALWAYS __forceinline
#define MEMREC_INLINE  // of closures too, which MSVC has no word for
#define MEMREC_APART __declspec(noinline)
#else
#define MEMREC_ALWAYS inline __attribute__((always_inline))
#define MEMREC_INLINE __attribute__((always_inline))  // a closure that is called keeps its captures in memory
#define MEMREC_APART __attribute__((noinline))        // what is rarely needed leaves the registers to the rest
#endif
