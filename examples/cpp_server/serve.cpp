// Serves a package of `memrec-convert export --to pt2`, without Python.
//
//     ./serve model.pt2 libmemrec_torch.so < samples.txt > logits.txt
//
// Reads a sample per line, its dense values and then its ids, and prints a logit per line. A third argument, a number, runs the
// batch so many times more and reports the median time of a run.
#include <ATen/ATen.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Loader = torch::inductor::AOTIModelPackageLoader;

// The operators that look up in compressed tables register themselves as their library is loaded.
void load_operators(const char* path) {
    if (!dlopen(path, RTLD_NOW | RTLD_GLOBAL))
        throw std::runtime_error(std::string("the package needs the library libmemrec_torch, which cannot be loaded: ") +
                                 dlerror() + ". `memrec-convert doctor --paths` says where it is.");
}

// How many dense values and ids a sample has, as the export noted it down.
std::pair<int64_t, int64_t> read_widths(const std::string& package) {
    const auto facts = Loader::load_metadata_from_package(package, "model");
    if (facts.count("memrec.inputs") == 0 || facts.at("memrec.inputs") != "dense ids")
        throw std::runtime_error(package + " takes no `dense` and `ids`; export it with --inputs ids.");
    std::istringstream widths(facts.at("memrec.widths"));
    int64_t dense = 0, ids = 0;
    widths >> dense >> ids;
    return {dense, ids};
}

std::vector<at::Tensor> read_batch(std::istream& in, int64_t dense_width, int64_t id_width) {
    std::vector<float> dense;
    std::vector<int64_t> ids;
    int64_t samples = 0;
    for (std::string line; std::getline(in, line); ++samples) {
        std::istringstream numbers(line);
        float value = 0;
        int64_t id = 0;
        for (int64_t i = 0; i < dense_width && numbers >> value; ++i) dense.push_back(value);
        for (int64_t i = 0; i < id_width && numbers >> id; ++i) ids.push_back(id);
        if (!numbers) throw std::runtime_error("line " + std::to_string(samples + 1) + " has too few numbers.");
    }
    return {at::tensor(dense).view({samples, dense_width}), at::tensor(ids, at::kLong).view({samples, id_width})};
}

// The median of so many runs.
void report_time(Loader& model, const std::vector<at::Tensor>& batch, int64_t runs) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> took;
    for (int64_t i = 0; i < runs; ++i) {
        const Clock::time_point start = Clock::now();
        model.run(batch);
        took.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    std::nth_element(took.begin(), took.begin() + runs / 2, took.end());
    std::fprintf(stderr, "%.1f microseconds per batch of %lld\n", took[static_cast<size_t>(runs / 2)],
                 static_cast<long long>(batch[0].size(0)));
}

void serve(const std::string& package, const char* library, int64_t runs) {
    load_operators(library);
    const auto [dense, ids] = read_widths(package);
    Loader model(package, "model", /*run_single_threaded=*/true);
    const std::vector<at::Tensor> batch = read_batch(std::cin, dense, ids);
    if (batch[0].size(0) == 0) return;
    const at::Tensor logits = model.run(batch)[0].contiguous();
    for (int64_t i = 0; i < logits.numel(); ++i) std::printf("%.9g\n", logits.data_ptr<float>()[i]);
    if (runs > 0) report_time(model, batch, runs);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 3) {
        std::fprintf(stderr, "usage: serve PACKAGE LIBRARY [RUNS] < SAMPLES\n");
        return 2;
    }
    try {
        c10::InferenceMode no_gradients;
        serve(arguments[1], arguments[2], count > 3 ? std::atoll(arguments[3]) : 0);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "serve: %s\n", error.what());
        return 1;
    }
}
