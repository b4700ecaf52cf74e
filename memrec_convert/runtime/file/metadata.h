// What an artifact says about itself: docs/artifact.md, section 2.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace memrec {

struct Metadata {
    std::map<std::string, std::string> aliases, digests;
    std::string_view modules;  // JSON, a part of the text
};

// Reads the metadata's text, which must outlive what is returned. Failure where it is damaged, not the canonical text, does
// not match its own digest, or needs what this library does not know.
Metadata read_metadata(std::string_view text);

}  // namespace memrec
