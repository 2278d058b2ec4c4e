// What a gate counts, as text and JSON; and what the HTTP end says to what.
#include "gate/metrics.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "gate/metrics_http.h"

namespace midstream::gate {
namespace {

using namespace std::literals;
using namespace std::chrono_literals;

bool has(const std::string& text, const std::string& line) { return ("\n" + text).find("\n" + line + "\n") != std::string::npos; }

TEST(Spans, ABucketHasItsBoundAndNotTheNext) {
  Spans spans;
  for (const auto span : {0ns, 1'000'000ns, 1'000'001ns, 10'000'000'000ns, 10'000'000'001ns}) spans.add(span);
  EXPECT_EQ(spans.counts[0], 2u);
  EXPECT_EQ(spans.counts[1], 1u);
  EXPECT_EQ(spans.counts[Spans::kBounds.size() - 1], 1u);
  EXPECT_EQ(spans.counts[Spans::kBounds.size()], 1u);
  EXPECT_EQ(spans.count(), 5u);
  EXPECT_EQ(spans.sum, 20'002'000'002ns);
}

TEST(Spans, OfASession) {
  Held held;
  for (const auto span : {20ms, 50ms, 10ms}) held.add(span);
  EXPECT_EQ(held.times, 3u);
  EXPECT_EQ(held.last, 10ms);
  EXPECT_EQ(held.longest, 50ms);
  EXPECT_EQ(held.sum, 80ms);
}

TEST(Tally, TwoWorkersAreAddedUpInEveryField) {
  Tally one;
  one.accepted = 1, one.logins = 2, one.moved = 3, one.cancels_passed = 4, one.cancels_dropped = 5;
  one.of(Ending::lost) = 6, one.of(Refusal::tls) = 7, one.of(1, Purpose::lookup) = 8;
  one.counts = {.client_bytes = 9, .server_bytes = 10, .requests = 11, .transactions = 12, .prepared = 13, .errors = 14, .notifications = 15};
  one.held.add(16ms), one.waited.add(17ms);
  Totals totals{.tally = one};
  totals.count(Doing::busy, Movable::pinned, Other::connected);
  auto twice = totals;
  twice += totals;
  const auto single = to_json(families({.totals = totals, .servers = {"old", "new"}})), both = to_json(families({.totals = twice, .servers = {"old", "new"}}));
  std::size_t not_zero = 0;
  for (std::size_t i = 0; i < single.size(); ++i) {
    for (std::size_t j = 0; j < single[i]["samples"].size(); ++j) {
      const auto& a = single[i]["samples"][j];
      const auto& b = both[i]["samples"][j];
      for (const auto* what : {"value", "count", "sum"}) {
        if (!a.contains(what)) continue;
        EXPECT_DOUBLE_EQ(2 * a[what].get<double>(), b[what].get<double>()) << single[i]["name"] << a;
        not_zero += a[what].get<double>() > 0 ? 1 : 0;
      }
    }
  }
  EXPECT_EQ(not_zero, 22u) << "the fifteen numbers, a state in three ways, and count and sum of two spans";
}

TEST(Switches, WhatIsTriedEndsOnce) {
  Switches switches;
  const Switches::Key key{"app", "new"};
  switches.known(key);
  switches.done(key, 1s);
  switches.failed(key, Failed::busy, 1s);
  EXPECT_EQ(switches.counts().of.at(key).tried, 0u) << "what is not held does not end";
  EXPECT_EQ(switches.counts().of.at(key).done, 0u);
  switches.begun(key, 10s);
  EXPECT_EQ(switches.counts().holding, 1u);
  switches.begun(key, 11s);
  switches.failed(key, Failed::pinned, 11s + 30ms);
  switches.begun(key, 20s);
  switches.done(key, 20s + 40ms);
  switches.done(key, 30s);
  const auto counts = switches.counts();
  EXPECT_EQ(counts.holding, 0u);
  EXPECT_EQ(counts.of.at(key).tried, 3u);
  EXPECT_EQ(counts.of.at(key).done, 1u);
  EXPECT_EQ(counts.of.at(key).failed, (std::array<std::uint64_t, 5>{1, 0, 0, 0, 1}));
  EXPECT_EQ(counts.done.sum, 40ms);
  EXPECT_EQ(counts.failed.sum, 1s + 30ms);
}

TEST(PrometheusText, IsAsItsFormatSays) {
  Metrics metrics{.servers = {"old", "new"}, .start_seconds = 1'700'000'000.25};
  metrics.totals.tally.counts.client_bytes = 12'345'678'901'234;
  metrics.totals.tally.waited.add(2ms);
  metrics.totals.tally.waited.add(20s);
  metrics.totals.count(Doing::in_transaction, Movable::after_transaction, Other::none);
  metrics.switches.of[{"a\"b\\c\nd", "new"}].failed[1] = 4;
  const auto text = prometheus_text(families(metrics));
  for (const auto* line : {"# HELP midstream_gate_forwarded_bytes_total Bytes passed on in sessions, after their log-in.",
                           "# TYPE midstream_gate_forwarded_bytes_total counter",
                           "midstream_gate_forwarded_bytes_total{from=\"client\"} 12345678901234",
                           "midstream_gate_start_time_seconds 1700000000.25",
                           "midstream_gate_sessions{state=\"after_transaction\"} 1",
                           "midstream_gate_sessions_doing{doing=\"in_transaction\"} 1",
                           "midstream_gate_switches_failed_total{database=\"a\\\"b\\\\c\\nd\",to=\"new\",reason=\"busy\"} 4",
                           "# TYPE midstream_gate_client_wait_seconds histogram",
                           "midstream_gate_client_wait_seconds_bucket{le=\"0.001\"} 0",
                           "midstream_gate_client_wait_seconds_bucket{le=\"0.0025\"} 1",
                           "midstream_gate_client_wait_seconds_bucket{le=\"10\"} 1",
                           "midstream_gate_client_wait_seconds_bucket{le=\"+Inf\"} 2",
                           "midstream_gate_client_wait_seconds_sum 20.002",
                           "midstream_gate_client_wait_seconds_count 2",
                           "midstream_gate_hold_seconds_bucket{outcome=\"done\",le=\"0.15\"} 0"})
    EXPECT_TRUE(has(text, line)) << line << "\nin\n" << text;
  EXPECT_TRUE(text.ends_with('\n'));
}

TEST(PrometheusText, WithoutASwitchNoneIsNamed) {
  const auto text = prometheus_text(families({.servers = {"server"}}));
  EXPECT_EQ(text.find("switches_tried"), std::string::npos) << "a family without a sample is none";
  EXPECT_NE(text.find("server_connections_opened_total{server=\"server\",purpose=\"switch\"} 0"), std::string::npos);
}

std::string first_line(const std::string& request) {
  const auto answer = answer_http(request, [] { return "figures 1\n"s; });
  return answer.substr(0, answer.find("\r\n"));
}

TEST(MetricsHttp, AnswersOneQuestionOnly) {
  EXPECT_EQ(first_line("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 OK");
  EXPECT_EQ(first_line("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 404 Not Found");
  EXPECT_EQ(first_line("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
  EXPECT_EQ(first_line("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"), "HTTP/1.1 405 Method Not Allowed");
  EXPECT_EQ(first_line("\x16\x03\x01\x02hello there, this is TLS\r\n\r\n"), "HTTP/1.1 400 Bad Request");
  const std::string long_head = "GET /metrics HTTP/1.1\r\nX: " + std::string(9'000, 'x');
  EXPECT_EQ(first_line(long_head), "HTTP/1.1 431 Request Header Fields Too Large");
  EXPECT_EQ(first_line(long_head + "\r\n\r\n"), "HTTP/1.1 431 Request Header Fields Too Large");
}

TEST(MetricsHttp, ARequestMayComeInPieces) {
  const std::string request = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n";
  for (std::size_t n = 0; n < request.size(); ++n) EXPECT_EQ(first_line(request.substr(0, n)), "") << n;
  const auto answer = answer_http(request, [] { return "figures 1\n"s; });
  EXPECT_TRUE(answer.ends_with("Content-Length: 10\r\nCache-Control: no-store\r\nConnection: close\r\n\r\nfigures 1\n")) << answer;
  EXPECT_NE(answer.find("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), std::string::npos);
  EXPECT_TRUE(answer_http("HEAD /metrics HTTP/1.1\r\n\r\n", [] { return "figures 1\n"s; }).ends_with("Connection: close\r\n\r\n"));
}

}  // namespace
}  // namespace midstream::gate
