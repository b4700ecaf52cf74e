// The encoder in NEON.
#include "encoder.h"

#if defined(__aarch64__) || defined(_M_ARM64)
#include "lanes_neon.h"
#include "search.h"

namespace memrec {
namespace {
const Encoder encoder = encoder_of<NeonLanes>("neon");
}  // namespace
const Encoder* neon_encoder() { return &encoder; }
}  // namespace memrec
#else
namespace memrec {
const Encoder* neon_encoder() { return nullptr; }
}  // namespace memrec
#endif
