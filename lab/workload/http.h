// As much of HTTP/1.1 (RFC 9112) as a small shop and its clients need: bodies with Content-Length,
// keep-alive, Expect: 100-continue. No chunked requests (411), no trailers, no pipelining by the client.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"
#include "sys/stream.h"

namespace midstream::lab {

inline constexpr std::size_t kMaxHead = 16u << 10;
inline constexpr std::size_t kMaxBody = 16u << 20;

using Headers = std::map<std::string, std::string>;  // names in lower case

struct HttpRequest {
  std::string method;
  std::string target;
  Headers headers;
  std::string body;
};

struct HttpResponse {
  int status = 0;
  Headers headers;
  std::string body;
  bool keep_alive = true;
};

// The value of header `name` (lower case), or "".
std::string header(const Headers& headers, const std::string& name);
std::string_view reason_phrase(int status);

// Pure: the head of a message, without the empty line that ends it. Corrupt if it is none.
Result<HttpRequest> parse_request_head(std::string_view head);
Result<HttpResponse> parse_response_head(std::string_view head);
std::string format_request(const HttpRequest& request, std::string_view host);
std::string format_response(const HttpResponse& response);

// One connection's incoming messages. Keeps what was read past a message for the next one.
class HttpReader {
 public:
  explicit HttpReader(Stream& stream) : stream_(stream) {}

  // The next request; nothing if the peer closed the connection between two. Refused with "411" or "413" in
  // front for a body that is not taken: answer so and close.
  Result<std::optional<HttpRequest>> read_request(Deadline deadline, const std::stop_token& stop);
  // The answer to a request; interim 1xx answers are skipped.
  Result<HttpResponse> read_response(Deadline deadline, const std::stop_token& stop);

  bool buffered() const { return !buffer_.empty(); }
  // Whether any byte of the message being read, or read last, has arrived.
  bool began() const { return began_; }

 private:
  Result<std::optional<std::string>> read_head(Deadline deadline, const std::stop_token& stop);
  Result<std::string> read_body(std::size_t size, Deadline deadline, const std::stop_token& stop);
  Result<std::size_t> fill(Deadline deadline, const std::stop_token& stop);

  Stream& stream_;
  std::string buffer_;
  bool began_ = false;
};

// Connects to the first of `addresses` (numeric) that answers. As RFC 8305: each gets 250 ms before the next
// is tried beside it.
Result<Fd> connect_any(const std::vector<std::string>& addresses, std::uint16_t port, Deadline deadline,
                       const std::stop_token& stop);

// A client's connection. After any error it is dead.
class HttpConnection {
 public:
  HttpConnection(Fd fd, std::string host);

  // Sends `request` and reads its answer. Where the error is `unknown` the request may have taken effect;
  // where it is anything else, nothing of it left.
  Result<HttpResponse> exchange(const HttpRequest& request, Deadline deadline, const std::stop_token& stop);
  // After an error: no byte of an answer had arrived.
  bool no_answer() const { return !reader_.began(); }
  int exchanges() const { return exchanges_; }

 private:
  std::unique_ptr<Stream> stream_;
  HttpReader reader_;
  std::string host_;
  int exchanges_ = 0;
};

struct HttpUrl {
  std::string host;  // a name, or a numeric address without brackets
  std::uint16_t port = 80;
};
// "http://HOST[:PORT]" with nothing after it.
Result<HttpUrl> parse_http_url(std::string_view url);

}  // namespace midstream::lab
