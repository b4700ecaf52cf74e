// The encoder on any machine.
#include "encoder.h"
#include "lanes_scalar.h"
#include "search.h"

namespace memrec {
namespace {
const Encoder encoder = encoder_of<ScalarLanes>("scalar");
}  // namespace
const Encoder* scalar_encoder() { return &encoder; }
}  // namespace memrec
