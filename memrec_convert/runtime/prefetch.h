// How memory is asked for before it is needed.
//
// MEMREC_PREFETCH: into the second-level cache on x86-64. The first takes no more misses at a time than a core's own loads
// may have, the second two or three times as many, and what is there costs a load next to nothing. MEMREC_PREFETCH_NEAR:
// into the first, for what comes in small portions between long computations. Assembler where there is some: GCC takes a
// function that only calls __builtin_prefetch for one without effect and drops calls of it.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define MEMREC_PREFETCH(p) _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1)
#define MEMREC_PREFETCH_NEAR(p) _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0)
#elif defined(__x86_64__)
#define MEMREC_PREFETCH(p) __asm__ volatile("prefetcht1 (%0)" : : "r"(p))
#define MEMREC_PREFETCH_NEAR(p) __asm__ volatile("prefetcht0 (%0)" : : "r"(p))
#elif defined(__aarch64__)
#define MEMREC_PREFETCH(p) __asm__ volatile("prfm pldl1keep, [%0]" : : "r"(p))
#define MEMREC_PREFETCH_NEAR(p) MEMREC_PREFETCH(p)
#else
#define MEMREC_PREFETCH(p) __builtin_prefetch(p)
#define MEMREC_PREFETCH_NEAR(p) MEMREC_PREFETCH(p)
#endif
