// The kernel in AVX-512 as Ice Lake and Zen 4 have it: byte permutations find a key among 32 at once.
#include "tables.h"

#if defined(__AVX512VBMI__) && defined(__AVX512VBMI2__) && defined(__AVX512VPOPCNTDQ__)
#include "lookup.h"
#include "simd_avx512.h"

namespace memrec {
namespace {

struct Avx512Kernel {
    using Wide = Avx512;
    template <class F>
    MEMREC_INLINE static void for_rest(int dim, int column, F f) {
        for_one<Avx512Half>(dim, column, f);
        for_one<Avx2Half>(dim, column, f);
        for_one<Avx2Quarter>(dim, column, f);
        for_last(dim, column, f);
    }
    // Whether one of n ids, side by side, is at or past `rows`.
    static bool any_at_or_past(const uint64_t* ids, int64_t n, uint64_t rows) {
        const __m512i most = _mm512_set1_epi64(static_cast<int64_t>(rows));
        uint32_t outside = 0;
        for (int64_t i = 0; i < n; i += 8) {
            const __mmask8 present = n - i >= 8 ? 0xFF : static_cast<__mmask8>((1u << (n - i)) - 1);
            outside |= _mm512_mask_cmpge_epu64_mask(present, _mm512_maskz_loadu_epi64(present, ids + i), most);
        }
        return outside != 0;
    }
    static float to_float(uint16_t half) { return _cvtsh_ss(half); }
    static void read_run(const Run& run, uint64_t word, int32_t dim, const int8_t** tokens) {
        const __m512i shifted = _mm512_srlv_epi64(_mm512_set1_epi64(static_cast<int64_t>(word)), _mm512_loadu_si512(run.shift));
        const __m512i entry = _mm512_and_si512(shifted, _mm512_loadu_si512(run.mask));
        const __m512i offset = _mm512_mul_epu32(entry, _mm512_set1_epi64(dim));
        _mm512_storeu_si512(tokens, _mm512_add_epi64(offset, _mm512_loadu_si512(run.start)));
    }
    template <int planes>
    static void weigh_bits(const uint64_t* words, const uint8_t* weights, int8_t* out) {
        __m512i sum = _mm512_set1_epi8(1);
        for (int p = 0; p < planes; ++p)
            sum = _mm512_mask_add_epi8(sum, words[p], sum, _mm512_set1_epi8(static_cast<char>(weights[p])));
        _mm512_store_si512(out, sum);
    }
    static void fence() { _mm_sfence(); }

    static int find_key(const Index& index, uint64_t first, int count, uint32_t key) {
        const uint32_t found = match(index, first, count, key);
        if (count > static_cast<int>(index.places->at_once) && !found) return find_late(index, first, count, key);
        return static_cast<int>(_tzcnt_u32(found)) | -static_cast<int>(found == 0);
    }

    MEMREC_APART static int find_late(const Index& index, uint64_t first, int count, uint32_t key) {
        const auto at_once = static_cast<int>(index.places->at_once);
        for (int done = at_once; done < count; done += at_once)
            if (const uint32_t late = match(index, first + static_cast<uint64_t>(done), count - done, key))
                return done + static_cast<int>(_tzcnt_u32(late));
        return -1;
    }

    // Which of the `count` keys from `first` on, as many as are found at once, equal `key`: a bit each. They lie within 57
    // bytes, with up to 7 bits before them; what is past the index is not read.
    static uint32_t match(const Index& index, uint64_t first, int count, uint32_t key) {
        const KeyPlaces& places = *index.places;
        const uint64_t start = first * index.key_bits, byte = start >> 3, held = static_cast<uint64_t>(index.bytes - index.keys_at);
        const uint8_t* keys = index.data + index.keys_at + byte;
        const __m512i data = byte + 64 <= held ? _mm512_loadu_si512(keys)
                                               : _mm512_maskz_loadu_epi8(_bzhi_u64(~0ull, static_cast<uint32_t>(held - byte)), keys);
        const __m512i words = _mm512_permutexvar_epi8(_mm512_loadu_si512(places.bytes_of[start & 7]), data);
        const __m512i shifted = _mm512_multishift_epi64_epi8(_mm512_loadu_si512(places.bits_of[start & 7]), words);
        const __m512i kept = _mm512_and_si512(shifted, _mm512_set1_epi16(static_cast<int16_t>((1u << index.key_bits) - 1)));
        const __mmask32 equal = _mm512_cmpeq_epi16_mask(kept, _mm512_set1_epi16(static_cast<int16_t>(key)));
        const auto most = static_cast<int>(places.at_once);
        return _bzhi_u32(_pext_u32(equal, places.lanes), static_cast<uint32_t>(count < most ? count : most));
    }

    static uint32_t match_line(const KeyLine& line, uint16_t key, uint32_t held) {
        const __m512i keys = _mm512_loadu_si512(&line);
        const __m512i sought = _mm512_set1_epi16(static_cast<int16_t>(key));
        return _bzhi_u32(_mm512_cmpeq_epi16_mask(keys, sought) >> (32 - kKeysPerLine), held);
    }

    static int split(const int64_t* places, uint16_t* list, int n, uint16_t* members) {
        int taken = 0, i = 0;
        for (; i + 8 <= n; i += 8) {
            const __mmask8 absent = _mm512_movepi64_mask(_mm512_loadu_si512(places + i));
            const __m128i slots = _mm_loadu_si128(reinterpret_cast<const __m128i*>(list + i));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(members + taken),
                             _mm_maskz_compress_epi16(static_cast<__mmask8>(~absent), slots));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(list + i - taken), _mm_maskz_compress_epi16(absent, slots));
            taken += 8 - static_cast<int>(_mm_popcnt_u32(absent));
        }
        return taken + split_by_one(places + i, list + i, n - i, members + taken, list + i - taken);
    }

    static uint64_t count_before(const uint8_t* line, uint32_t bit) {
        const __m512i words = _mm512_loadu_si512(line);
        const __m512i lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        const __m512i last = _mm512_set1_epi64(bit >> 6);
        const __m512i partial = _mm512_set1_epi64(static_cast<int64_t>((1ull << (bit & 63)) - 1));
        const __mmask8 before = _mm512_cmplt_epi64_mask(lane, last), own = _mm512_cmpeq_epi64_mask(lane, last);
        __m512i kept = _mm512_maskz_mov_epi64(before, words);
        kept = _mm512_mask_and_epi64(kept, own, words, partial);
        kept = _mm512_and_si512(kept, _mm512_setr_epi64(static_cast<int64_t>(~0xFFFFFFFFull), -1, -1, -1, -1, -1, -1, -1));
        return static_cast<uint64_t>(_mm512_reduce_add_epi64(_mm512_popcnt_epi64(kept)));
    }
};

const Kernel kernel = {"avx512", Lookup<Avx512Kernel>::run, any_outside<Avx512Kernel>, sum_rows<Avx512Kernel>};

}  // namespace

const Kernel* avx512_kernel() { return &kernel; }

}  // namespace memrec
#else
namespace memrec {
const Kernel* avx512_kernel() { return nullptr; }
}  // namespace memrec
#endif
