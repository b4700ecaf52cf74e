// The encoder in AVX2 with AVX-VNNI.
#include "encoder.h"

#if defined(__AVXVNNI__)
#include "lanes_avx2.h"
#include "search.h"

namespace memrec {
namespace {
const Encoder encoder = encoder_of<Avx2LanesOver<AvxVnniGroups>>("avx_vnni");
}  // namespace
const Encoder* avx_vnni_encoder() { return &encoder; }
}  // namespace memrec
#else
namespace memrec {
const Encoder* avx_vnni_encoder() { return nullptr; }
}  // namespace memrec
#endif
