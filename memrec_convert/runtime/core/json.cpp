#include "json.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <locale>
#include <sstream>

namespace memrec {
namespace {

constexpr int kMostDepth = 64;
constexpr size_t kLongestQuote = 60;

bool is_digit(char letter) { return letter >= '0' && letter <= '9'; }

void append_code_point(std::string& text, uint32_t code) {
    const auto tail = [&](int shift) { text += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x80) {
        text += static_cast<char>(code);
    } else if (code < 0x800) {
        text += static_cast<char>(0xC0 | (code >> 6));
        tail(0);
    } else if (code < 0x10000) {
        text += static_cast<char>(0xE0 | (code >> 12));
        tail(6);
        tail(0);
    } else {
        text += static_cast<char>(0xF0 | (code >> 18));
        tail(12);
        tail(6);
        tail(0);
    }
}

#if defined(__cpp_lib_to_chars)
bool parse_float(std::string_view text, double& value) {
    const auto found = std::from_chars(text.data(), text.data() + text.size(), value);
    return found.ec == std::errc() && found.ptr == text.data() + text.size();
}

// The fewest digits that give the number again, as d.ddde+xx.
std::string shortest(double value) {
    char digits[40];
    return {digits, std::to_chars(digits, digits + sizeof digits, value, std::chars_format::scientific).ptr};
}
#else  // standard libraries that are older than C++17 in this; independent of the process's locale as well
bool parse_float(std::string_view text, double& value) {
    std::istringstream stream{std::string(text)};
    stream.imbue(std::locale::classic());
    return static_cast<bool>(stream >> value) && stream.peek() == std::char_traits<char>::eof();
}

std::string shortest(double value) {
    for (int digits = 0;; ++digits) {
        std::ostringstream stream;
        stream.imbue(std::locale::classic());
        stream.precision(digits);
        stream << std::scientific << value;
        double again = 0;
        if (digits == 16 || (parse_float(stream.str(), again) && again == value)) return stream.str();
    }
}
#endif

// The number as Python writes it.
std::string python_float(double value) {
    const std::string text = shortest(value);
    const size_t e = text.find('e');
    std::string sign, digits;
    for (char letter : text.substr(0, e))
        if (letter != '.') (letter == '-' ? sign : digits) += letter;
    const int exponent = std::atoi(text.c_str() + e + 1), count = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        const std::string size = std::to_string(std::abs(exponent));
        const std::string mantissa = count > 1 ? digits.substr(0, 1) + "." + digits.substr(1) : digits;
        return sign + mantissa + (exponent < 0 ? "e-" : "e+") + (size.size() < 2 ? "0" : "") + size;
    }
    if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
    if (count <= exponent + 1) return sign + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
    return sign + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." + digits.substr(static_cast<size_t>(exponent) + 1);
}

}  // namespace

std::string quote(std::string_view text) {
    std::string shown = "'";
    for (char letter : text.substr(0, kLongestQuote)) shown += letter >= ' ' && letter <= '~' ? letter : '?';
    return shown + (text.size() > kLongestQuote ? "...'" : "'");
}

void JsonReader::fail(const std::string& found) const {
    damaged(what_ + " is damaged: it has " + found + " at byte " + std::to_string(at_));
}

bool JsonReader::take(char wanted) {
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
}

void JsonReader::expect(char wanted) {
    if (take(wanted)) return;
    fail(at_ < text_.size() ? quote(text_.substr(at_, 1)) + " in the place of " + quote({&wanted, 1}) : "its end");
}

void JsonReader::end() {
    if (at_ != text_.size()) fail("more than one value");
}

std::string JsonReader::string() {
    expect('"');
    std::string text;
    uint32_t high = 0;  // the first half of a pair that may follow
    for (;;) {
        if (at_ >= text_.size()) fail("its end");
        const char letter = text_[at_++];
        uint32_t code = static_cast<uint8_t>(letter);
        if (letter == '"') return text;
        if (letter == '\\')
            code = escaped_unit();
        else if (letter < ' ' || letter > '~')
            fail("a letter that is not plain");
        const bool paired = high && code >= 0xDC00 && code < 0xE000;
        if (paired) {
            text.resize(text.size() - 3);
            code = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00);
        }
        high = code >= 0xD800 && code < 0xDC00 ? code : 0;
        append_code_point(text, code);
    }
}

// What follows a backslash, if canonical_json would have written it so.
uint32_t JsonReader::escaped_unit() {
    static constexpr std::string_view names = "\"\\nrtbf", values = "\"\\\n\r\t\b\f";
    if (at_ >= text_.size()) fail("its end");
    const char letter = text_[at_++];
    if (const size_t number = names.find(letter); number != names.npos) return static_cast<uint8_t>(values[number]);
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
        const char digit = letter == 'u' && at_ < text_.size() ? text_[at_++] : 'x';
        if (!is_digit(digit) && (digit < 'a' || digit > 'f')) fail("an unusual escape");
        code = 16 * code + static_cast<uint32_t>(is_digit(digit) ? digit - '0' : digit - 'a' + 10);
    }
    if ((code >= ' ' && code <= '~') || (code < ' ' && values.find(static_cast<char>(code)) != values.npos))
        fail("an unusual escape");
    return code;
}

// The letters of a number that Python would write just so.
std::string_view JsonReader::number() {
    const size_t start = at_;
    take('-');
    const size_t first = at_;
    while (is_digit(peek())) ++at_;
    const bool whole = peek() != '.' && peek() != 'e';
    if (at_ == first || (text_[first] == '0' && at_ > first + 1)) fail("no number that is written as usual");
    if (whole) {
        if (since(start) == "-0") fail("no number that is written as usual");
        return since(start);
    }
    while (is_digit(peek()) || peek() == '.' || peek() == 'e' || peek() == '+' || peek() == '-') ++at_;
    double value = 0;
    if (!parse_float(since(start), value) || !std::isfinite(value) || python_float(value) != since(start))
        fail("no number that is written as usual");
    return since(start);
}

int64_t JsonReader::whole(int64_t least, int64_t most) {
    if (peek() != '-' && !is_digit(peek())) fail("no whole number");
    const std::string_view digits = number();
    int64_t value = 0;
    const auto found = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (found.ec != std::errc() || found.ptr != digits.data() + digits.size() || value < least || value > most)
        fail("a number that is not a whole one from " + std::to_string(least) + " to " + std::to_string(most));
    return value;
}

bool JsonReader::boolean() {
    const bool value = peek() == 't';
    skip_word(value ? "true" : "false");
    return value;
}

void JsonReader::skip_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("an unknown word");
    at_ += word.size();
}

void JsonReader::skip(int depth) {
    if (depth > kMostDepth) fail("values nested too deeply");
    switch (peek()) {
        case '{': return object([&](const std::string&) { skip(depth + 1); });
        case '[': return array([&](size_t) { skip(depth + 1); });
        case '"': string(); return;
        case 't': return skip_word("true");
        case 'f': return skip_word("false");
        case 'n': return skip_word("null");
        default: number(); return;
    }
}

}  // namespace memrec
