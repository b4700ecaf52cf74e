// The encoder in AVX2.
#include "encoder.h"

#if defined(__AVX2__)
#include "lanes_avx2.h"
#include "search.h"

namespace memrec {
namespace {
const Encoder encoder = encoder_of<Avx2LanesOver<Avx2Pairs>>("avx2");
}  // namespace
const Encoder* avx2_encoder() { return &encoder; }
}  // namespace memrec
#else
namespace memrec {
const Encoder* avx2_encoder() { return nullptr; }
}  // namespace memrec
#endif
