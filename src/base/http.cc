#include "base/http.h"

#include <algorithm>
#include <charconv>

#include "base/text.h"

namespace midstream {

namespace {

constexpr std::size_t kMostBytes = 1u << 20;

bool same_name(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [&](char x, char y) { return lower(x) == lower(y); });
}

template <class Number>
bool parse_number(std::string_view text, Number& number, int base = 10) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  return failed == std::errc() && end == text.data() + text.size();
}

// Whether a chunked body is whole: nullopt if it is none.
std::optional<bool> chunks_whole(std::string_view body) {
  while (true) {
    const auto line = body.find("\r\n");
    if (line == std::string_view::npos) return body.size() > 64 ? std::nullopt : std::optional(false);
    std::size_t size = 0;
    if (!parse_number(trim(body.substr(0, std::min(body.find(';'), line))), size, 16)) return std::nullopt;
    if (size > kMostBytes) return std::nullopt;
    body.remove_prefix(line + 2);
    if (size == 0) return body.starts_with("\r\n") || body.contains("\r\n\r\n");
    if (body.size() < size + 2) return false;
    body.remove_prefix(size + 2);
  }
}

}  // namespace

HttpAnswer::State HttpAnswer::feed(std::string_view bytes) {
  if (bytes_.size() + bytes.size() > kMostBytes) return State::broken;
  bytes_ += bytes;
  if (body_ == 0) {
    const auto end = bytes_.find("\r\n\r\n");
    if (end == std::string::npos) return State::reading;
    if (const auto state = parse_head(end); state != State::reading) return state;
  }
  return check_body();
}

HttpAnswer::State HttpAnswer::parse_head(std::size_t end) {
  const std::string_view head(bytes_.data(), end);
  const auto first = std::min(head.find("\r\n"), head.size());
  // "HTTP/1.1 200 OK"
  if (first < 12 || !head.starts_with("HTTP/1.") || head[8] != ' ' || !parse_number(head.substr(9, 3), status_))
    return State::broken;
  auto rest = head.substr(std::min(first + 2, head.size()));
  while (!rest.empty()) {
    const auto line = rest.substr(0, rest.find("\r\n"));
    rest.remove_prefix(std::min(line.size() + 2, rest.size()));
    const auto colon = std::min(line.find(':'), line.size());
    const auto name = line.substr(0, colon);
    const auto value = trim(line.substr(std::min(colon + 1, line.size())));
    if (same_name(name, "x-host")) host_ = value;
    if (same_name(name, "transfer-encoding")) chunked_ = same_name(value, "chunked");
    if (same_name(name, "content-length")) {
      std::size_t length = 0;
      if (!parse_number(value, length)) return State::broken;
      length_ = length;
    }
  }
  if (status_ >= 100 && status_ < 200) {  // an interim answer: the real one follows
    bytes_.erase(0, end + 4);
    length_.reset();
    chunked_ = false;
    return feed("");
  }
  body_ = end + 4;
  return State::reading;
}

HttpAnswer::State HttpAnswer::check_body() {
  if (body_ == 0) return State::reading;
  if (status_ == 204 || status_ == 304) return State::whole;
  const auto body = std::string_view(bytes_).substr(body_);
  if (chunked_) {
    const auto whole = chunks_whole(body);
    if (!whole) return State::broken;
    return *whole ? State::whole : State::reading;
  }
  return length_ && body.size() >= *length_ ? State::whole : State::reading;
}

HttpAnswer::State HttpAnswer::close() {
  if (body_ == 0) return State::broken;
  const auto state = check_body();
  if (state != State::reading) return state;
  return chunked_ || length_ ? State::broken : State::whole;
}

}  // namespace midstream
