// Reads JSON as artifacts have it: in the one way in which canonical_json writes it, ASCII, without spaces, with the keys of
// an object rising where they are sorted. Whatever differs from that is refused where it stands, so nothing has to be kept
// of what a caller does not want, however large or deep it is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "failure.h"

namespace memrec {

class JsonReader {
  public:
    // `what` names the text in errors. The text must outlive the reader.
    JsonReader(std::string_view text, std::string what) : text_(text), what_(std::move(what)) {}

    bool take(char wanted);     // whether it is next; then it is read
    void expect(char wanted);
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    size_t place() const { return at_; }
    std::string_view since(size_t start) const { return text_.substr(start, at_ - start); }

    std::string string();       // UTF-8, whose order is that of code points; lone surrogates as three bytes
    int64_t whole(int64_t least, int64_t most);
    bool boolean();
    void skip() { skip(0); }    // any value
    void end();                 // nothing is left

    // Calls f(key) for each entry, which must read its value. Keys must rise where `sorted`.
    template <class F>
    void object(F f, bool sorted = true) {
        expect('{');
        if (take('}')) return;
        std::string before;
        for (bool first = true;; first = false) {
            std::string key = string();
            if (sorted && !first && key <= before) fail("keys that do not rise");
            expect(':');
            before = key;
            f(std::move(key));
            if (take('}')) return;
            expect(',');
        }
    }

    // Calls f(number) for each element, which must read it.
    template <class F>
    void array(F f) {
        expect('[');
        if (take(']')) return;
        for (size_t number = 0;; ++number) {
            f(number);
            if (take(']')) return;
            expect(',');
        }
    }

    [[noreturn]] void fail(const std::string& found) const;

  private:
    void skip(int depth);
    void skip_word(std::string_view word);
    std::string_view number();
    uint32_t escaped_unit();

    std::string_view text_;
    std::string what_;
    size_t at_ = 0;
};

// A text of the file as a part of a sentence: printable ASCII, cut where it is long.
std::string quote(std::string_view text);

}  // namespace memrec
