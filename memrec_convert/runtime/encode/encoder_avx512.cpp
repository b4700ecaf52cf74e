// The encoder in AVX-512 with VNNI.
#include "encoder.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "lanes_avx512.h"
#include "search.h"

namespace memrec {
namespace {
const Encoder encoder = encoder_of<Avx512Lanes>("avx512");
}  // namespace
const Encoder* avx512_encoder() { return &encoder; }
}  // namespace memrec
#else
namespace memrec {
const Encoder* avx512_encoder() { return nullptr; }
}  // namespace memrec
#endif
