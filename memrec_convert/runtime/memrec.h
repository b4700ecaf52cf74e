/* libmemrec: lookups in the compressed tables of an artifact, from C and from whatever calls C.
 *
 *     memrec_artifact* artifact;
 *     memrec_error error;
 *     if (memrec_open("model.safetensors", NULL, &artifact, &error) != MEMREC_OK) puts(error.text);
 *
 * Nothing from a file is executed, and nothing in it is believed unchecked. A file that lies gets a code and a sentence; no
 * file makes a lookup read outside its tables. Any number of threads may use one artifact at the same time. The library keeps
 * nothing between calls but what it found out about the processor, and a row of scratch memory per thread that sums bags.
 * No C++ exception leaves it.
 */
#ifndef MEMREC_H
#define MEMREC_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(MEMREC_BUILDING)
#define MEMREC_API __declspec(dllexport)
#elif defined(_WIN32) && !defined(MEMREC_STATIC)
#define MEMREC_API __declspec(dllimport)
#elif defined(__GNUC__)
#define MEMREC_API __attribute__((visibility("default")))
#else
#define MEMREC_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct memrec_artifact memrec_artifact;
typedef struct memrec_pool memrec_pool;

typedef enum memrec_status {
    MEMREC_OK = 0,
    MEMREC_BAD_ARGUMENT = 1,    /* the caller's: a null pointer, a table that is not there, weights without offsets */
    MEMREC_NO_FILE = 2,         /* the file is not there or cannot be read */
    MEMREC_NOT_AN_ARTIFACT = 3, /* another kind of file */
    MEMREC_DAMAGED = 4,         /* it contradicts itself or the format */
    MEMREC_NEWER_FORMAT = 5,    /* it needs a format or a feature that this library lacks; the text names it */
    MEMREC_UNSUPPORTED = 6,     /* sound, and beyond this library's limits */
    MEMREC_NO_MEMORY = 7,
    MEMREC_BAD_ID = 8,          /* an id is outside its table, where that is an error */
    MEMREC_BAD_OFFSET = 9,      /* offsets must rise from 0 and stay within the ids */
    MEMREC_BAD_WEIGHT = 10,     /* a weight is NaN */
    MEMREC_INTERNAL = 11
} memrec_status;

/* What went wrong. Every function that takes one takes NULL as well, and leaves it alone where nothing goes wrong. */
typedef struct memrec_error {
    memrec_status status;
    int32_t lookup;      /* the element of `lookups` that is at fault, or -1 */
    int64_t position;    /* which of its ids, offsets or weights, or -1 */
    char text[500];      /* one sentence, printable ASCII */
} memrec_error;

/* ---- An artifact ---- */

typedef enum memrec_flags {
    /* Tables are looked up where the file is mapped or the buffer lies. Without it they are copied, each from a cache line on
     * and in large pages where the system has some: lookups are then faster, and processes do not share the tables. */
    MEMREC_IN_PLACE = 1
} memrec_flags;

typedef struct memrec_options {
    uint32_t flags;               /* of memrec_flags */
    const char* instruction_set;  /* "avx512", "avx2", "neon", "scalar", or NULL for the best; all give the same bits */
} memrec_options;

/* Maps a file and reads its header: format, metadata with its digest, types and shapes of all tables. `options` may be NULL.
 * The file must not be shortened while the artifact is open; replacing it under its name is safe. */
MEMREC_API memrec_status memrec_open(const char* path, const memrec_options* options, memrec_artifact** artifact,
                                     memrec_error* error);

/* The same of a file's bytes in memory, which must stay as they are until the artifact is closed. */
MEMREC_API memrec_status memrec_open_buffer(const void* bytes, size_t count, const memrec_options* options,
                                            memrec_artifact** artifact, memrec_error* error);

/* The rest of what docs/artifact.md, section 11, has a reader refuse: digests of all tensors, every index, ids in two levels.
 * Reads the whole file once; worth it where a file arrives, not in every process. */
MEMREC_API memrec_status memrec_verify(const memrec_artifact* artifact, memrec_error* error);

/* No lookup may be under way. NULL is allowed. */
MEMREC_API void memrec_close(memrec_artifact* artifact);

/* ---- Its tables ---- */

typedef enum memrec_outside { /* what an id outside 0..rows-1 does */
    MEMREC_AS_STORED = -1,    /* in a lookup alone: what the file says */
    MEMREC_OUTSIDE_ERROR = 0, /* is refused */
    MEMREC_OUTSIDE_CLIP = 1,  /* takes the nearest row */
    MEMREC_OUTSIDE_HASH = 2,  /* takes the row id modulo rows */
    MEMREC_OUTSIDE_ZERO = 3   /* gives zeros */
} memrec_outside;

typedef enum memrec_pooling { MEMREC_NO_POOLING = 0, MEMREC_SUM = 1, MEMREC_MEAN = 2 } memrec_pooling;

typedef struct memrec_table {
    const char* path;     /* where it stands in the model, such as "tables.0"; UTF-8, as long as the artifact */
    const char* name;     /* its name in the source */
    int64_t rows;
    int64_t bytes;        /* of its tensors in the file; a shared group of hashed tokens counts for each table */
    int64_t padding_id;   /* reads as zeros and is left out of bags; -1: none */
    int32_t dim;
    memrec_outside outside;
    memrec_pooling pooling;  /* MEMREC_NO_POOLING where it stands for an nn.Embedding */
} memrec_table;

/* Tables come in the order of their paths, numbers in them by value: tables.2 before tables.10. */
MEMREC_API int32_t memrec_count_tables(const memrec_artifact* artifact);
MEMREC_API memrec_status memrec_get_table(const memrec_artifact* artifact, int32_t number, memrec_table* table,
                                          memrec_error* error);
MEMREC_API int32_t memrec_find_table(const memrec_artifact* artifact, const char* path); /* -1 where there is none */

/* ---- Lookups ---- */

/* The ids of one table, and where their vectors go. Zero what you do not use, and set `outside`. */
typedef struct memrec_lookup {
    int32_t table;
    memrec_outside outside;  /* MEMREC_AS_STORED, or another way for this lookup */
    int32_t id_bits;         /* 64 or 32, signed */
    int32_t offset_bits;     /* 64 or 32, where there are offsets */
    const void* ids;
    int64_t id_stride;       /* from one id to the next, in ids; 0 means 1 */
    int64_t id_count;
    const void* offsets;     /* where each bag begins, rising from 0; NULL: every id is a bag of its own */
    const float* weights;    /* by which each id's row is multiplied, for sums of bags; or NULL */
    float* out;              /* a vector of `dim` floats per bag */
    int64_t out_stride;      /* from one vector to the next, in floats; 0 means dim */
} memrec_lookup;

/* Looks up `bags` bags of each of `count` lookups. Everything is checked first: where something is wrong nothing is written
 * (but for MEMREC_NO_MEMORY). `pool` may be NULL: then all runs on the calling thread. Rows and sums are the same bits on every
 * machine, whatever the threads. */
MEMREC_API memrec_status memrec_look_up(const memrec_artifact* artifact, const memrec_lookup* lookups, int64_t count,
                                        int64_t bags, memrec_pool* pool, memrec_error* error);

/* Threads for large lookups: at most so many at once, the caller's among them; they start when they are first needed. A call
 * that finds its pool in use runs on its own thread. A pool does not survive fork(): make it in the child. */
MEMREC_API memrec_status memrec_make_pool(int32_t threads, memrec_pool** pool, memrec_error* error);
MEMREC_API void memrec_free_pool(memrec_pool* pool);

/* ---- About the library ---- */

MEMREC_API const char* memrec_version(void);
MEMREC_API const char* memrec_instruction_set(int32_t number); /* best first; NULL after the last */

#ifdef __cplusplus
}
#endif

#endif
