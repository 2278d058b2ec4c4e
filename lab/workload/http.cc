#include "lab/workload/http.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/text.h"

namespace midstream::lab {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return out;
}

template <class Number>
std::optional<Number> number_from(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Splits the first line off `head` and parses the rest.
Result<Headers> parse_headers(std::string_view& head) {
  Headers headers;
  const auto first_end = head.find("\r\n");
  std::string_view rest =
      first_end == std::string_view::npos ? std::string_view() : head.substr(first_end + 2);
  head = head.substr(0, first_end);
  while (!rest.empty()) {
    const auto end = rest.find("\r\n");
    const auto line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 2);
    const auto colon = line.find(':');
    if (colon == 0 || colon == std::string_view::npos) return corrupt("HTTP: a header line without a name");
    headers[lower(line.substr(0, colon))] = std::string(trim(line.substr(colon + 1)));
  }
  return headers;
}

Result<std::size_t> body_size(const Headers& headers) {
  if (headers.contains("transfer-encoding")) return refused("411 chunked bodies are not taken here");
  const auto length = headers.find("content-length");
  if (length == headers.end()) return std::size_t{0};
  const auto size = number_from<std::uint64_t>(length->second);
  if (!size) return corrupt("HTTP: content-length is not a number");
  if (*size > kMaxBody) return refused(fmt::format("413 the body is larger than {} bytes", kMaxBody));
  return static_cast<std::size_t>(*size);
}

void put_headers(std::string& out, const Headers& headers) {
  for (const auto& [name, value] : headers) out += fmt::format("{}: {}\r\n", name, value);
}

}  // namespace

std::string header(const Headers& headers, const std::string& name) {
  const auto at = headers.find(name);
  return at == headers.end() ? std::string() : at->second;
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    case 507:
      return "Insufficient Storage";
    default:
      return "Status";
  }
}

Result<HttpRequest> parse_request_head(std::string_view head) {
  HttpRequest request;
  request.headers = TRY(parse_headers(head));
  const auto parts = split(head, ' ');
  if (parts.size() != 3 || parts[0].empty() || parts[1].empty() || !parts[2].starts_with("HTTP/1.")) {
    return corrupt("HTTP: the first line is no request");
  }
  request.method = parts[0];
  request.target = parts[1];
  if (parts[2] == "HTTP/1.0") request.headers.try_emplace("connection", "close");
  return request;
}

Result<HttpResponse> parse_response_head(std::string_view head) {
  HttpResponse response;
  response.headers = TRY(parse_headers(head));
  const auto parts = split(head, ' ');
  if (parts.size() < 2 || !parts[0].starts_with("HTTP/1."))
    return corrupt("HTTP: the first line is no answer");
  const auto status = number_from<int>(parts[1]);
  if (!status || *status < 100 || *status > 999)
    return corrupt("HTTP: the status is not a number of three digits");
  response.status = *status;
  const auto connection = lower(header(response.headers, "connection"));
  response.keep_alive = connection != "close" && (parts[0] != "HTTP/1.0" || connection == "keep-alive");
  return response;
}

std::string format_request(const HttpRequest& request, std::string_view host) {
  std::string out = fmt::format("{} {} HTTP/1.1\r\nhost: {}\r\n", request.method, request.target, host);
  put_headers(out, request.headers);
  if (!request.body.empty() || request.method == "PUT" || request.method == "POST") {
    out += fmt::format("content-length: {}\r\n", request.body.size());
  }
  return out + "\r\n" + request.body;
}

std::string format_response(const HttpResponse& response) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", response.status, reason_phrase(response.status));
  put_headers(out, response.headers);
  if (!response.keep_alive) out += "connection: close\r\n";
  return out + fmt::format("content-length: {}\r\n\r\n", response.body.size()) + response.body;
}

Result<std::size_t> HttpReader::fill(Deadline deadline, const std::stop_token& stop) {
  char bytes[16384];
  const auto n = TRY(stream_.read_some(bytes, deadline, stop));
  buffer_.append(bytes, n);
  if (n > 0) began_ = true;
  return n;
}

Result<std::optional<std::string>> HttpReader::read_head(Deadline deadline, const std::stop_token& stop) {
  began_ = !buffer_.empty();
  while (true) {
    if (const auto end = buffer_.find("\r\n\r\n"); end != std::string::npos) {
      std::string head = buffer_.substr(0, end);
      buffer_.erase(0, end + 4);
      return std::optional(std::move(head));
    }
    if (buffer_.size() > kMaxHead) return corrupt("HTTP: the head of a message is too long");
    if (TRY(fill(deadline, stop)) == 0) {
      if (buffer_.empty()) return std::optional<std::string>();
      return retry("HTTP: the connection was closed within a message");
    }
  }
}

Result<std::string> HttpReader::read_body(std::size_t size, Deadline deadline, const std::stop_token& stop) {
  while (buffer_.size() < size) {
    if (TRY(fill(deadline, stop)) == 0) return retry("HTTP: the connection was closed within a body");
  }
  std::string body = buffer_.substr(0, size);
  buffer_.erase(0, size);
  return body;
}

Result<std::optional<HttpRequest>> HttpReader::read_request(Deadline deadline, const std::stop_token& stop) {
  const auto head = TRY(read_head(deadline, stop));
  if (!head) return std::optional<HttpRequest>();
  auto request = TRY(parse_request_head(*head));
  const auto size = TRY(body_size(request.headers));
  if (size > 0 && lower(header(request.headers, "expect")) == "100-continue") {
    CHECK_OK(stream_.write_all("HTTP/1.1 100 Continue\r\n\r\n", deadline, stop));
  }
  request.body = TRY(read_body(size, deadline, stop));
  return std::optional(std::move(request));
}

Result<HttpResponse> HttpReader::read_response(Deadline deadline, const std::stop_token& stop) {
  while (true) {
    const auto head = TRY(read_head(deadline, stop));
    if (!head) return retry("HTTP: the connection was closed before an answer");
    auto response = TRY(parse_response_head(*head));
    if (response.status < 200) continue;
    if (response.status == 204 || response.status == 304) return response;
    if (response.headers.contains("content-length")) {
      response.body = TRY(read_body(TRY(body_size(response.headers)), deadline, stop));
      return response;
    }
    response.keep_alive = false;  // the body ends with the connection
    while (TRY(fill(deadline, stop)) > 0) {
      if (buffer_.size() > kMaxBody) return corrupt("HTTP: a body without end");
    }
    response.body = std::exchange(buffer_, {});
    return response;
  }
}

namespace {

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

Result<Address> numeric_address(const std::string& text, std::uint16_t port) {
  Address out;
  auto& v4 = reinterpret_cast<sockaddr_in&>(out.storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(out.storage);
  if (::inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    out.size = sizeof v4;
  } else if (::inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    out.size = sizeof v6;
  } else {
    return refused(fmt::format("{} is not a numeric address", printable(text)));
  }
  return out;
}

// Connections being tried beside each other.
class Race {
 public:
  // True if it is connected at once.
  Result<> add(const std::string& text, std::uint16_t port) {
    const auto address = TRY(numeric_address(text, port));
    Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return errno_failure("cannot make a socket", errno);
    const int rc = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.size);
    if (rc != 0 && errno != EINPROGRESS)
      return errno_failure(fmt::format("cannot connect to {}", text), errno);
    fds_.push_back(std::move(fd));
    return {};
  }

  bool empty() const { return fds_.empty(); }

  // The first that is connected within `span`, an empty Fd if none is; those that fail drop out.
  Fd wait(Millis span, Error& last) {
    std::vector<pollfd> polled;
    for (const auto& fd : fds_) polled.push_back({fd.get(), POLLOUT, 0});
    if (::poll(polled.data(), polled.size(), static_cast<int>(span.count())) <= 0) return Fd();
    Fd winner;
    std::vector<Fd> still;
    for (std::size_t i = 0; i < fds_.size(); ++i) {
      if (polled[i].revents == 0) {
        still.push_back(std::move(fds_[i]));
        continue;
      }
      int failed = 0;
      socklen_t size = sizeof failed;
      ::getsockopt(fds_[i].get(), SOL_SOCKET, SO_ERROR, &failed, &size);
      if (failed != 0) {
        last = errno_failure("cannot connect", failed).error();
      } else if (!winner) {
        winner = std::move(fds_[i]);
      }
    }
    fds_ = std::move(still);
    return winner;
  }

 private:
  std::vector<Fd> fds_;
};

}  // namespace

Result<Fd> connect_any(const std::vector<std::string>& addresses, std::uint16_t port, Deadline deadline,
                       const std::stop_token& stop) {
  Race race;
  Error last{ErrorKind::retry, "there is no address to connect to", ""};
  std::size_t next = 0;
  auto next_at = Deadline::in(Millis(0));
  while (true) {
    if (stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped while connecting");
    if (deadline.expired())
      return retry(fmt::format("no connection to {} port {} in time", join(addresses, ", "), port));
    if (next < addresses.size() && (race.empty() || next_at.expired())) {
      if (auto added = race.add(addresses[next++], port); !added) last = added.error();
      next_at = Deadline::in(Millis(250));
      continue;
    }
    if (race.empty()) return std::unexpected(std::move(last));
    if (Fd won = race.wait(deadline.sooner(Millis(50)).remaining(), last); won) {
      const int on = 1;
      ::setsockopt(won.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      return won;
    }
  }
}

HttpConnection::HttpConnection(Fd fd, std::string host)
    : stream_(make_fd_stream(std::move(fd))), reader_(*stream_), host_(std::move(host)) {}

Result<HttpResponse> HttpConnection::exchange(const HttpRequest& request, Deadline deadline,
                                              const std::stop_token& stop) {
  ++exchanges_;
  // A write that fails half-way may have carried the whole of a small request: unknown, like a lost answer.
  auto answer = [&]() -> Result<HttpResponse> {
    CHECK_OK(stream_->write_all(format_request(request, host_), deadline, stop));
    return reader_.read_response(deadline, stop);
  }();
  if (!answer) return failure(ErrorKind::unknown, std::move(answer).error().what);
  return answer;
}

Result<HttpUrl> parse_http_url(std::string_view url) {
  const std::string shown = printable(url);
  if (!url.starts_with("http://")) return refused(fmt::format("'{}' does not begin with http://", shown));
  url.remove_prefix(7);
  if (url.ends_with('/')) url.remove_suffix(1);
  HttpUrl out;
  std::string_view rest;
  if (url.starts_with('[')) {
    const auto end = url.find(']');
    if (end == std::string_view::npos) return refused(fmt::format("'{}' has no closing bracket", shown));
    out.host = url.substr(1, end - 1);
    rest = url.substr(end + 1);
  } else {
    out.host = url.substr(0, url.find(':'));
    rest = url.substr(out.host.size());
  }
  if (!rest.empty()) {
    const auto port = rest.starts_with(':') ? number_from<std::uint16_t>(rest.substr(1)) : std::nullopt;
    if (!port) return refused(fmt::format("'{}' has no valid port", shown));
    out.port = *port;
  }
  if (out.host.empty()) return refused(fmt::format("'{}' names no host", shown));
  return out;
}

}  // namespace midstream::lab
