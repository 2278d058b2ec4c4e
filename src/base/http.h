// As much of HTTP/1.1 (RFC 9112) as a probe needs: the answer to a GET with Connection: close. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace midstream {

// Fed with what comes in; says when the answer is whole.
class HttpAnswer {
 public:
  enum class State { reading, whole, broken };

  // At most 1 MiB altogether is taken; more is broken.
  State feed(std::string_view bytes);
  // The peer has closed: whole if that is how this answer ends.
  State close();

  int status() const { return status_; }
  // X-Host's value; "" without one.
  const std::string& host() const { return host_; }

 private:
  State parse_head(std::size_t end);
  State check_body();

  std::string bytes_;
  std::size_t body_ = 0;  // where the body begins; 0 while the head is incomplete
  int status_ = 0;
  std::string host_;
  std::optional<std::size_t> length_;
  bool chunked_ = false;
};

}  // namespace midstream
