// The encoder in AVX-512, with entries and points multiplied in tiles of AMX.
#include "encoder.h"

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "lanes_amx.h"
#include "search.h"

namespace memrec {
namespace {
const Encoder encoder = encoder_of<AmxLanes>("amx");
}  // namespace
const Encoder* amx_encoder() { return &encoder; }
}  // namespace memrec
#else
namespace memrec {
const Encoder* amx_encoder() { return nullptr; }
}  // namespace memrec
#endif
