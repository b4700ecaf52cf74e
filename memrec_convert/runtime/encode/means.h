// Lloyd's algorithm: points to their nearest centres, centres to the means of their points.
#pragma once

#include <cstdint>

#include "encoder.h"

namespace memrec {

struct Clustering {
    const float* points;   // [count, dim]
    int64_t count;
    int32_t dim;
    const float* weights;  // [count]
    float* centres;        // [k, dim], those to start from; then those that the points are nearest to
    int64_t k;
    int64_t moves;         // of the centres, at most: none follows where no point has changed its centre
    int64_t* nearest;      // [count]
    float* distances;      // [count], squared
};

// A centre without a point moves to one that contributes most to the weighted sum of squares, a different one for each; of
// points that contribute alike the earlier. Sums are in double, in the order of the points.
void find_means(const Encoder& encoder, const Clustering& task);

}  // namespace memrec
