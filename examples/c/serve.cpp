// The embedding stage of a server in C++: all tables of an artifact in one call per batch, one id per table and sample.
//
//     c++ -std=c++17 serve.cpp $(pkg-config --cflags --libs memrec) -o serve
//     ./serve model.safetensors 64 2
//
// Takes a batch of so many samples on so many threads, and prints the vectors' sum per table.
#include <memrec.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// A status that is not MEMREC_OK, as an exception of the server's own.
void check(memrec_status status, const memrec_error& error) {
    if (status != MEMREC_OK) throw std::runtime_error(error.text);
}

struct Close {
    void operator()(memrec_artifact* artifact) const { memrec_close(artifact); }
    void operator()(memrec_pool* pool) const { memrec_free_pool(pool); }
};

class Embeddings {
  public:
    Embeddings(const std::string& path, int threads) {
        memrec_error error;
        memrec_artifact* artifact = nullptr;
        check(memrec_open(path.c_str(), nullptr, &artifact, &error), error);
        artifact_.reset(artifact);
        memrec_pool* pool = nullptr;
        check(memrec_make_pool(threads, &pool, &error), error);
        pool_.reset(pool);
        for (int32_t number = 0; number < memrec_count_tables(artifact); ++number) {
            tables_.emplace_back();
            check(memrec_get_table(artifact, number, &tables_.back(), &error), error);
            width_ += tables_.back().dim;
        }
    }

    const std::vector<memrec_table>& tables() const { return tables_; }
    int64_t width() const { return width_; }

    // ids [samples, tables], row by row -> vectors [samples, width], a sample's tables side by side.
    std::vector<float> look_up(const std::vector<int64_t>& ids) const {
        const auto count = static_cast<int64_t>(tables_.size()), samples = static_cast<int64_t>(ids.size()) / count;
        std::vector<float> vectors(static_cast<size_t>(samples * width_));
        std::vector<memrec_lookup> lookups(tables_.size());
        int64_t column = 0;
        for (int32_t number = 0; number < count; ++number) {
            memrec_lookup& lookup = lookups[static_cast<size_t>(number)];
            lookup.table = number;
            lookup.outside = MEMREC_AS_STORED;
            lookup.id_bits = 64;
            lookup.ids = ids.data() + number;
            lookup.id_stride = count;
            lookup.id_count = samples;
            lookup.out = vectors.data() + column;
            lookup.out_stride = width_;
            column += tables_[static_cast<size_t>(number)].dim;
        }
        memrec_error error;
        check(memrec_look_up(artifact_.get(), lookups.data(), count, samples, pool_.get(), &error), error);
        return vectors;
    }

  private:
    std::unique_ptr<memrec_artifact, Close> artifact_;
    std::unique_ptr<memrec_pool, Close> pool_;
    std::vector<memrec_table> tables_;
    int64_t width_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "usage: serve FILE SAMPLES THREADS\n");
        return 1;
    }
    try {
        const Embeddings embeddings(arguments[1], std::atoi(arguments[3]));
        const int64_t samples = std::atoll(arguments[2]);
        std::vector<int64_t> ids;
        for (int64_t sample = 0; sample < samples; ++sample)
            for (const memrec_table& table : embeddings.tables()) ids.push_back(sample * 7919 % table.rows);
        const std::vector<float> vectors = embeddings.look_up(ids);
        int64_t column = 0;
        for (const memrec_table& table : embeddings.tables()) {
            double sum = 0;
            for (int64_t sample = 0; sample < samples; ++sample)
                for (int64_t c = column; c < column + table.dim; ++c) sum += vectors[static_cast<size_t>(sample * embeddings.width() + c)];
            std::printf("%s %.9g\n", table.path, sum);
            column += table.dim;
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
