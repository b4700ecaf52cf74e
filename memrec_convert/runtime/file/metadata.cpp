#include "metadata.h"

#include <algorithm>

#include "core/blake2b.h"
#include "core/json.h"

namespace memrec {
namespace {

constexpr const char* kWhat = "the metadata";
constexpr const char* kFields[] = {"aliases", "architecture", "dense", "digests", "format", "measured",
                                   "modules", "plan", "profile", "seed", "self"};
constexpr size_t kDigestDigits = 32;
constexpr int64_t kNewestFormat = 2;

// Features of format 2 that this library reads, by the names that `requires` has for them.
constexpr std::string_view kFeatures[] = {"compute", "int8-dense", "trellis-rows"};

using Fields = std::map<std::string, std::string_view>;

Fields read_fields(std::string_view text) {
    JsonReader json(text, kWhat);
    Fields fields;
    json.object([&](const std::string& key) {
        const size_t start = json.place();
        json.skip();
        fields[key] = json.since(start);
    });
    json.end();
    return fields;
}

std::string_view field_of(const Fields& fields, const char* name) {
    const auto found = fields.find(name);
    if (found == fields.end()) damaged(std::string("the metadata lacks the field '") + name + "'");
    return found->second;
}

[[noreturn]] void refuse_newer(const std::string& what) {
    throw Failure(MEMREC_NEWER_FORMAT, "it " + what + ", which this library does not know; install a newer memrec-convert.");
}

bool is_known(std::string_view feature) {
    for (const std::string_view known : kFeatures)
        if (feature == known) return true;
    return false;
}

// Whether this library knows the format and all that the file requires; Failure with the name of what it does not know.
void check_format(const Fields& fields) {
    JsonReader json(field_of(fields, "format"), kWhat);
    const int64_t format = json.whole(1, int64_t{1} << 62);
    json.end();
    if (format > kNewestFormat) refuse_newer("has format version " + std::to_string(format));
    const bool lists = fields.count("requires") != 0;
    if (lists != (format == 2)) damaged("the metadata lists required features just where its format is 2");
    if (!lists) return;
    JsonReader features(field_of(fields, "requires"), kWhat);
    features.array([&](size_t) {
        const std::string feature = features.string();
        if (!is_known(feature)) refuse_newer("requires the feature " + quote(feature));
    });
}

void check_names(const Fields& fields) {
    for (const char* name : kFields) field_of(fields, name);
    for (const auto& [name, value] : fields) {
        bool known = name == "requires" || name == "compute";
        for (const char* one : kFields) known = known || name == one;
        if (!known) damaged("the metadata has the unknown field " + quote(name));
    }
}

// `self` is the last field: its digits are 32 in front of the closing quote and brace.
void check_self(std::string_view text, std::string_view self) {
    const std::string_view end = "\"}", last = text.substr(text.size() - std::min(text.size(), self.size() + 1));
    if (self.size() != kDigestDigits + 2 || last.substr(0, self.size()) != self)
        damaged("the metadata's own digest is not at its end");
    Blake2b digest;
    digest.add(text.data(), text.size() - kDigestDigits - end.size());
    digest.add(std::string(kDigestDigits, '0').data(), kDigestDigits);
    digest.add(end.data(), end.size());
    if (digest.finish() != self.substr(1, kDigestDigits))
        damaged("the metadata does not match its own digest: the file was changed after it was written");
}

std::map<std::string, std::string> read_texts(std::string_view text) {
    JsonReader json(text, kWhat);
    std::map<std::string, std::string> texts;
    json.object([&](const std::string& key) { texts[key] = json.string(); });
    return texts;
}

void expect_object(const Fields& fields, const char* name, bool or_null = false) {
    const std::string_view text = field_of(fields, name);
    if (text[0] != '{' && !(or_null && text == "null"))
        damaged(std::string("the metadata's field '") + name + "' is of a wrong kind");
}

}  // namespace

Metadata read_metadata(std::string_view text) {
    const Fields fields = read_fields(text);
    check_format(fields);
    check_names(fields);
    check_self(text, field_of(fields, "self"));
    for (const char* name : {"modules", "plan", "profile"}) expect_object(fields, name);
    expect_object(fields, "architecture", true);
    const std::string_view seed = field_of(fields, "seed"), dense = field_of(fields, "dense");
    if (seed.find_first_not_of("-0123456789") != seed.npos) damaged("the metadata's field 'seed' is of a wrong kind");
    if (dense != "\"fp32\"" && dense != "\"bf16\"" && dense != "\"int8\"") damaged("the metadata's dense part is in an unknown precision");
    read_texts(field_of(fields, "measured"));
    return {read_texts(field_of(fields, "aliases")), read_texts(field_of(fields, "digests")), field_of(fields, "modules")};
}

}  // namespace memrec
