#include "gate/metrics_http.h"

#include <fmt/format.h>

#include <array>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>

#include "sys/log.h"
#include "sys/net.h"

namespace midstream::gate {

namespace {

namespace http = boost::beast::http;

constexpr std::uint32_t kLongestHead = 8 * 1024;
constexpr Millis kTime{2'000};  // for a request, and for taking its answer
constexpr Millis kAgain{1'000};

std::string reply(http::status status, const std::string& body, bool with_body = true, std::string_view type = "text/plain; charset=utf-8") {
  return fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Cache-Control: no-store\r\nConnection: close\r\n\r\n{}",
                     static_cast<unsigned>(status), std::string_view(http::obsolete_reason(status)), type, body.size(),
                     status == http::status::method_not_allowed ? "Allow: GET, HEAD\r\n" : "", with_body ? body : "");
}

Result<> answer(Stream& stream, const std::function<std::string()>& text, const std::stop_token& stop) {
  const auto deadline = Deadline::in(kTime);
  std::string request, answer;
  while (answer.empty()) {
    std::array<char, 4'096> bytes;
    const auto n = TRY(stream.read_some(bytes, deadline, stop));
    if (n == 0) return {};
    request.append(bytes.data(), n);
    answer = answer_http(request, text);
  }
  return stream.write_all(answer, Deadline::in(kTime), stop);
}

}  // namespace

std::string answer_http(std::string_view request, const std::function<std::string()>& text) {
  http::request_parser<http::empty_body> parser;
  parser.header_limit(kLongestHead);
  boost::beast::error_code failed;
  parser.put(boost::asio::buffer(request.substr(0, kLongestHead + 1)), failed);
  if (failed == http::error::need_more) return request.size() <= kLongestHead ? "" : reply(http::status::request_header_fields_too_large, "too long\n");
  if (failed == http::error::header_limit) return reply(http::status::request_header_fields_too_large, "too long\n");
  if (failed && !parser.is_header_done()) return reply(http::status::bad_request, "this is no HTTP request\n");
  const auto& head = parser.get();
  const bool whole = head.method() == http::verb::get;
  if (!whole && head.method() != http::verb::head) return reply(http::status::method_not_allowed, "GET /metrics\n");
  if (head.target() != "/metrics") return reply(http::status::not_found, "GET /metrics\n", whole);
  return reply(http::status::ok, text(), whole, "text/plain; version=0.0.4; charset=utf-8");
}

void serve_metrics(int listener, const std::function<std::string()>& text, const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    auto fd = accept_one(listener, stop);
    if (!fd && fd.error().kind == ErrorKind::cancelled) return;
    if (!fd) {
      log_warn("gate", "metrics: {}", fd.error().text());
      pause_for(kAgain, stop);
      continue;
    }
    const auto stream = make_fd_stream(std::move(*fd));
    (void)answer(*stream, text, stop);  // who asks and does not wait for the answer is told nothing
  }
}

}  // namespace midstream::gate
