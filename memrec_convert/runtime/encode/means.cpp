#include "means.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "sums.h"

namespace memrec {
namespace {

void assign(const Encoder& encoder, const Clustering& task) {
    const auto books = make_books(task.centres, task.k, task.dim);
    const RowSource rows{task.points, RowKind::fp32, task.dim, task.count, task.dim, nullptr, nullptr, nullptr};
    encoder.assign({rows, books.data(), static_cast<int32_t>(books.size()), task.nearest, task.distances});
}

// The `wanted` points that contribute most, the greatest first.
std::vector<int64_t> find_worst(const Clustering& task, size_t wanted) {
    std::vector<float> contribution(static_cast<size_t>(task.count));
    for (size_t i = 0; i < contribution.size(); ++i) {
        const float own = task.weights[i] * task.distances[i];
        contribution[i] = own >= 0 ? own : 0;  // what is no number has no order
    }
    std::vector<int64_t> order(contribution.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    const auto worse = [&](int64_t a, int64_t b) {
        const float left = contribution[static_cast<size_t>(a)], right = contribution[static_cast<size_t>(b)];
        return left != right ? left > right : a < b;
    };
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(wanted, order.size()));
    std::partial_sort(order.begin(), end, order.end(), worse);
    order.erase(end, order.end());
    return order;
}

void move(const Clustering& task, std::vector<double>& masses, std::vector<double>& sums) {
    std::fill(masses.begin(), masses.end(), 0.0);
    std::fill(sums.begin(), sums.end(), 0.0);
    add_by_nearest(task.points, task.count, task.dim, task.weights, task.nearest, masses.data(), sums.data());
    std::vector<size_t> empty;
    for (size_t centre = 0; centre < masses.size(); ++centre) {
        if (masses[centre] == 0) empty.push_back(centre);
        if (!(masses[centre] > 0)) continue;
        const double mass = std::max(masses[centre], 1e-30);
        for (size_t k = centre * static_cast<size_t>(task.dim); k < (centre + 1) * static_cast<size_t>(task.dim); ++k)
            task.centres[k] = static_cast<float>(sums[k] / mass);
    }
    if (empty.empty()) return;
    const std::vector<int64_t> worst = find_worst(task, empty.size());
    for (size_t n = 0; n < worst.size(); ++n)
        std::memcpy(task.centres + empty[n] * static_cast<size_t>(task.dim), task.points + worst[n] * task.dim,
                    static_cast<size_t>(task.dim) * sizeof(float));
}

}  // namespace

void find_means(const Encoder& encoder, const Clustering& task) {
    std::vector<double> masses(static_cast<size_t>(task.k)), sums(static_cast<size_t>(task.k) * static_cast<size_t>(task.dim));
    std::vector<int64_t> before(static_cast<size_t>(task.count));
    assign(encoder, task);
    for (int64_t done = 0; done < task.moves; ++done) {
        std::copy(task.nearest, task.nearest + task.count, before.begin());
        move(task, masses, sums);
        assign(encoder, task);
        if (std::equal(before.begin(), before.end(), task.nearest)) break;
    }
}

}  // namespace memrec
