#include "files.h"

#include <cerrno>
#include <cstring>

#include "arguments.h"

#ifndef _WIN32
#include <unistd.h>
#endif
#if defined(__x86_64__) && !defined(_MSC_VER)
#include <immintrin.h>
#define MEMREC_FOLDS 1
#endif

namespace {

#ifdef MEMREC_FOLDS

// CRC-32 by carry-less products (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction", Intel 2009). Bit m of a run of n bits is the coefficient of x^(n - 1 - m). What lies in the first 64 bytes is moved
// 64 bytes on, modulo the polynomial, and added to what lies there, until 64 bytes have the remainder of all.
constexpr uint32_t kPolynomial = 0xEDB88320;
constexpr size_t kBlock = 64;

struct Tables {
    uint32_t bytes[256];       // the register after each byte
    uint64_t far[2], near[2];  // what moves the two halves of 16 bytes 64 and 16 bytes on

    Tables() {
        for (uint32_t byte = 0; byte < 256; ++byte) bytes[byte] = times_x(byte, 8);
        // A product of two runs of 64 bits has 127 of them, and as 128 it stands for one power more: so one is left out.
        far[0] = power(512 + 64 - 1), far[1] = power(512 - 1);
        near[0] = power(128 + 64 - 1), near[1] = power(128 - 1);
    }

    static uint32_t times_x(uint32_t value, int times) {
        while (times--) value = (value >> 1) ^ (value & 1 ? kPolynomial : 0);
        return value;
    }
    // x^exponent modulo the polynomial, as a run of 64 bits.
    static uint64_t power(int exponent) { return uint64_t{times_x(0x80000000u, exponent)} << 32; }
};

uint32_t sum_bytes(const Tables& tables, const unsigned char* data, size_t count, uint32_t state) {
    for (size_t i = 0; i < count; ++i) state = tables.bytes[(state ^ data[i]) & 255] ^ (state >> 8);
    return state;
}

__attribute__((target("sse2,pclmul"))) inline __m128i move_on(__m128i run, __m128i powers) {
    return _mm_xor_si128(_mm_clmulepi64_si128(run, powers, 0x00), _mm_clmulepi64_si128(run, powers, 0x11));
}

__attribute__((target("sse2,pclmul"))) uint32_t fold(const Tables& tables, const unsigned char* data, size_t count,
                                                     uint32_t state) {
    const auto load = [](const unsigned char* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); };
    const auto pair = [](const uint64_t* of) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(of)); };
    const __m128i far = pair(tables.far), near = pair(tables.near);
    __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(state)));
    __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
    for (data += kBlock, count -= kBlock; count >= kBlock; data += kBlock, count -= kBlock) {
        a = _mm_xor_si128(move_on(a, far), load(data));
        b = _mm_xor_si128(move_on(b, far), load(data + 16));
        c = _mm_xor_si128(move_on(c, far), load(data + 32));
        d = _mm_xor_si128(move_on(d, far), load(data + 48));
    }
    b = _mm_xor_si128(move_on(a, near), b);
    c = _mm_xor_si128(move_on(b, near), c);
    d = _mm_xor_si128(move_on(c, near), d);
    unsigned char last[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(last), d);
    return sum_bytes(tables, data, count, sum_bytes(tables, last, sizeof last, 0));
}

bool can_fold() { return __builtin_cpu_supports("pclmul"); }

uint32_t crc_of(const unsigned char* data, size_t count, uint32_t before) {
    static const Tables tables;
    const uint32_t state = ~before;
    return ~(count < kBlock ? sum_bytes(tables, data, count, state) : fold(tables, data, count, state));
}

#else

bool can_fold() { return false; }
uint32_t crc_of(const unsigned char*, size_t, uint32_t) { return 0; }

#endif

#ifndef _WIN32
// Reads `width` bytes from each position to one place after the other. Returns how many were whole before the first that was
// not, of which `error` says why: 0 at the end of the file.
int64_t read_all(int file, const int64_t* positions, int64_t count, size_t width, char* to, int& error) {
    for (int64_t i = 0; i < count; ++i, to += width)
        for (size_t done = 0; done < width;) {
            const ssize_t got = pread(file, to + done, width - done, static_cast<off_t>(positions[i]) + static_cast<off_t>(done));
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) {
                error = got < 0 ? errno : 0;
                return i;
            }
            done += static_cast<size_t>(got);
        }
    return count;
}
#endif

}  // namespace

// (address, count, crc before) -> crc, or None where this machine has no quick instruction for it
PyObject* sum_crc32(PyObject*, PyObject* const* args, Py_ssize_t count) {
    memrec::Arguments given("sum_crc32", args, count, 3);
    if (!given) return nullptr;
    if (!can_fold()) Py_RETURN_NONE;
    const auto* data = given.address<const unsigned char>();
    const auto bytes = static_cast<size_t>(given.number());
    const auto before = static_cast<uint32_t>(given.number());
    uint32_t found = 0;
    Py_BEGIN_ALLOW_THREADS;
    found = crc_of(data, bytes, before);
    Py_END_ALLOW_THREADS;
    return PyLong_FromUnsignedLong(found);
}

// (file, positions int64 [count], count, width, to) -> how many pieces were whole; OSError where one cannot be read
PyObject* read_pieces(PyObject*, PyObject* const* args, Py_ssize_t count) {
    memrec::Arguments given("read_pieces", args, count, 5);
    if (!given) return nullptr;
#ifdef _WIN32
    PyErr_SetString(PyExc_NotImplementedError, "read_pieces: not on this system");
    return nullptr;
#else
    const auto file = static_cast<int>(given.number());
    const auto* positions = given.address<const int64_t>();
    const int64_t pieces = given.number();
    const auto width = static_cast<size_t>(given.number());
    auto* to = given.address<char>();
    int64_t whole = 0;
    int error = 0;
    Py_BEGIN_ALLOW_THREADS;
    whole = read_all(file, positions, pieces, width, to, error);
    Py_END_ALLOW_THREADS;
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLongLong(whole);
#endif
}
