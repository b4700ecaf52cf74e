// Sums that a fit decides by, in double and in one order on every machine.
#pragma once

#include <cstdint>

namespace memrec {

// masses[k] += weight and sums[k, dim] += weight * point of the points whose nearest is k, in the points' order.
void add_by_nearest(const float* points, int64_t count, int64_t dim, const float* weights, const int64_t* nearest,
                    double* masses, double* sums);

// |row|^2 of each of [count, dim] floats, rows `stride` floats apart: eight sums of every eighth square, folded in halves. Not finite where a row is not.
void square_norms(const float* rows, int64_t count, int64_t dim, int64_t stride, double* norms);

// What rows add to the normal equations of entries: of each row the entries are firsts[s] + codes[row, s], s below depths[row].
struct Named {
    const float* rows;    // [count, dim], less the centre
    const float* weights;
    const int8_t* depths;
    const uint8_t* codes;  // [count, stages]
    int64_t count, dim, stages;
    const int64_t* firsts;  // [stages + 1]
};

// normal [entries, entries], its lower triangle; right [entries, dim].
void add_to_normal(const Named& named, double* normal, double* right);

}  // namespace memrec
