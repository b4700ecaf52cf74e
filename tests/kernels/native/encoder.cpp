// Codes random rows by random books through each instruction set of this build and compares codes and distances with the
// scalar one's. Prints a line per instruction set and, last, a digest of the scalar bits, which is the same everywhere.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/cpu.h"
#include "encode/encoder.h"

namespace {

using namespace memrec;

uint64_t state = 1;

// Sums of four draws, exact in float on every machine.
float draw() {
    int64_t sum = 0;
    for (int i = 0; i < 4; ++i) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        sum += static_cast<int64_t>(state >> 52) - 2048;
    }
    return static_cast<float>(sum) / 1024.0f;
}

struct Result {
    std::vector<uint8_t> codes;
    std::vector<float> distances;
    bool equals(const Result& other) const {
        return codes == other.codes &&
               !std::memcmp(distances.data(), other.distances.data(), distances.size() * sizeof(float));
    }
};

Result code(const Encoder& encoder, const RowSource& rows, const std::vector<Book>& books, const int8_t* depths, int32_t beam) {
    const auto stages = static_cast<int32_t>(books.size());
    Result result{std::vector<uint8_t>(static_cast<size_t>(rows.count * stages)),
                  std::vector<float>(static_cast<size_t>(rows.count))};
    encoder.code({rows, books.data(), stages, depths, beam, result.codes.data(), result.distances.data(), false});
    return result;
}

bool is_of_this_machine(const Encoder* encoder) {
    static const Features features = detect_features();
    if (!encoder) return false;
    if (encoder == amx_encoder()) return take_tiles();
    if (encoder == avx512_encoder()) return features.avx512_vnni;
    if (encoder == avx_vnni_encoder()) return features.avx_vnni;
    return encoder != avx2_encoder() || features.avx2;
}

uint64_t digest = 14695981039346656037ull;

void add_to_digest(const void* bytes, size_t count) {
    for (size_t i = 0; i < count; ++i) digest = (digest ^ static_cast<const uint8_t*>(bytes)[i]) * 1099511628211ull;
}

}  // namespace

int main() {
    const Encoder* encoders[] = {amx_encoder(), avx512_encoder(), avx_vnni_encoder(), avx2_encoder(), neon_encoder(), scalar_encoder()};
    int cases = 0, differ[6] = {};
    for (int32_t dim : {1, 3, 16, 20, 64, 130, 300})
        for (int32_t beam : {1, 2, 4}) {
            const int64_t count = 70;
            std::vector<float> rows(static_cast<size_t>(count * dim)), centre(static_cast<size_t>(dim)),
                metric(static_cast<size_t>(dim) * static_cast<size_t>(dim));
            for (float& value : rows) value = draw();
            for (float& value : centre) value = draw() / 4;
            for (float& value : metric) value = draw() / 8;
            std::vector<Book> books;
            for (int32_t size : {3, 17, 256}) {
                std::vector<float> entries(static_cast<size_t>(size * dim));
                for (float& value : entries) value = draw() / static_cast<float>(1 + books.size());
                books.push_back(make_book(entries.data(), size, dim));
            }
            std::vector<int8_t> depths(static_cast<size_t>(count));
            for (size_t i = 0; i < depths.size(); ++i) depths[i] = static_cast<int8_t>(static_cast<int>(i % 5) - 1);
            const RowSource source{rows.data(), RowKind::fp32, dim, count, dim, centre.data(), metric.data()};
            const Result wanted = code(*scalar_encoder(), source, books, depths.data(), beam);
            add_to_digest(wanted.codes.data(), wanted.codes.size());
            add_to_digest(wanted.distances.data(), wanted.distances.size() * sizeof(float));
            ++cases;
            for (int e = 0; e < 6; ++e)
                if (is_of_this_machine(encoders[e]))
                    differ[e] += !code(*encoders[e], source, books, depths.data(), beam).equals(wanted);
        }
    int wrong = 0;
    for (int e = 0; e < 6; ++e) {
        if (!is_of_this_machine(encoders[e])) continue;
        std::printf("%s: %d cases, %d differ\n", encoders[e]->name, cases, differ[e]);
        wrong += differ[e];
    }
    std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
    return wrong != 0;
}
