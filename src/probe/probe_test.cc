#include "probe/probe.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "probe/echo.h"
#include "base/http.h"
#include "probe/lane.h"
#include "probe/outcome.h"
#include "probe/probe_log.h"
#include "probe/testing.h"
#include "sys/file.h"
#include "sys/net.h"

namespace midstream {
namespace {

using std::chrono::milliseconds;
namespace fs = std::filesystem;

// An HTTP server on a port of its own, which can go away and come back, be slow, or answer something else.
class Server {
 public:
  Server() { open(0); }
  ~Server() { close(); }

  void open(std::uint16_t port) {
    auto listener = listen_tcp("127.0.0.1", port);
    ASSERT_TRUE(listener) << listener.error().text();
    port_ = *local_port(listener->get());
    listener_ = std::move(*listener);
    thread_ = std::jthread([this](const std::stop_token& stop) { serve(stop); });
  }
  void reopen() { open(port_); }
  // From now on connections are refused.
  void close() {
    thread_.request_stop();
    if (thread_.joinable()) thread_.join();
    listener_.reset();
  }
  std::uint16_t port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/health"; }

  std::atomic<int> delay_ms{0};
  std::atomic<int> status{200};
  std::atomic<bool> truncate{false};

 private:
  void serve(const std::stop_token& stop) {
    std::vector<std::jthread> answering;
    while (!stop.stop_requested()) {
      auto client = accept_one(listener_.get(), stop);
      if (client) answering.emplace_back([this, stop, fd = std::move(*client)] { answer(fd.get(), stop); });
    }
  }
  void answer(int fd, const std::stop_token& stop) const {
    char bytes[4096];
    if (::recv(fd, bytes, sizeof bytes, 0) <= 0) return;
    if (!pause_for(Millis(delay_ms.load()), stop)) return;
    const std::string body = truncate ? "o" : "ok";
    const auto text = "HTTP/1.1 " + std::to_string(status.load()) + " x\r\nX-Host: here\r\nContent-Length: 2\r\n\r\n" + body;
    ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
  }

  Fd listener_;
  std::uint16_t port_ = 0;
  std::jthread thread_;
};

// A running probe; stopped at the end of the scope.
class Running {
 public:
  explicit Running(ProbeConfig config) : config_(std::move(config)), reader_(config_.log) {
    thread_ = std::jthread([this](const std::stop_token& stop) { result_ = run_probe(config_, stop); });
  }
  Result<> stop() {
    thread_.request_stop();
    if (thread_.joinable()) thread_.join();
    return result_;
  }
  Figures figures(const std::string& name) {
    (void)reader_.poll();
    const auto* target = reader_.meter().target(name);
    return target == nullptr ? Figures{} : target->figures();
  }

 private:
  ProbeConfig config_;
  MeterReader reader_;
  Result<> result_;
  std::jthread thread_;
};

ServiceProbe http_service(const std::string& url) {
  return {.name = "web", .kind = "http", .target = url, .every = milliseconds(20), .timeout = milliseconds(2'000), .slow = milliseconds(1'000)};
}

TEST(Probe, MeasuresAnOutage) {
  const Scratch scratch;
  Server server;
  Running probe({.log = scratch / "log", .services = {http_service(server.url())}});
  ASSERT_TRUE(eventually([&] { return probe.figures("web").requests >= 10; }));
  EXPECT_EQ(probe.figures("web").failed, 0);
  const auto down = boot_now();
  server.close();
  ASSERT_TRUE(eventually([&] { return probe.figures("web").failed >= 10; }));
  server.reopen();
  const auto up = boot_now();
  ASSERT_TRUE(eventually([&] {
    const auto f = probe.figures("web");
    return f.interval_count >= 1 && f.intervals[0].end == DownInterval::End::up;
  }));
  ASSERT_TRUE(probe.stop());
  const auto f = probe.figures("web");
  EXPECT_NE(f.intervals[0].error, "-");  // refused, or cut off by the close
  EXPECT_GE(f.lower, 9 * Nanos(milliseconds(20)));
  EXPECT_LE(f.lower, up - down + milliseconds(20));
  EXPECT_GE(f.upper, f.lower);
  EXPECT_EQ(f.failed, f.intervals[0].last_seq - f.intervals[0].first_seq + 1);
}

TEST(Probe, ASlowAnswerDoesNotDelayTheNextProbe) {
  const Scratch scratch;
  Server server;
  server.delay_ms = 500;
  auto service = http_service(server.url());
  service.slow = milliseconds(100);
  service.every = milliseconds(50);
  const auto log = scratch / "log";
  Running probe({.log = log, .services = {service}});
  ASSERT_TRUE(eventually([&] { return probe.figures("web").slow >= 20; }));
  ASSERT_TRUE(probe.stop());
  // Twenty answers of half a second each, one behind the other, would take ten seconds.
  const auto f = probe.figures("web");
  EXPECT_EQ(f.failed, 0);
  EXPECT_GE(f.longest_pause, Nanos(milliseconds(500)));
  std::ifstream in(log);
  std::vector<Nanos> starts;
  for (std::string line; std::getline(in, line);) {
    const auto decoded = decode_line(line);
    ASSERT_TRUE(decoded);
    if (const auto* run = std::get_if<RunLine>(&*decoded)) starts.push_back(run->first_start);
  }
  ASSERT_GE(starts.size(), 20u);
  for (std::size_t i = 1; i < starts.size(); ++i) EXPECT_EQ((starts[i] - starts[i - 1]) % Nanos(milliseconds(50)), Nanos(0));
  EXPECT_LT(starts[19] - starts[0], Nanos(milliseconds(3'000)));
}

TEST(Probe, GoesOnWhereTheLastOneEnded) {
  const Scratch scratch;
  Server server;
  const auto log = scratch / "log";
  std::int64_t before = 0;
  {
    Running probe({.log = log, .services = {http_service(server.url())}});
    ASSERT_TRUE(eventually([&] { return probe.figures("web").requests >= 5; }));
    ASSERT_TRUE(probe.stop());
    before = probe.figures("web").requests;
  }
  Running probe({.log = log, .services = {http_service(server.url())}});
  ASSERT_TRUE(eventually([&] { return probe.figures("web").requests >= before + 5; }));
  ASSERT_TRUE(probe.stop());
  const auto json = read_meter(log);
  ASSERT_TRUE(json) << json.error().text();
  EXPECT_EQ((*json)["sessions"], 2);
  EXPECT_EQ((*json)["services"][0]["failed"], 0);
  EXPECT_EQ(fs::status(log).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST(Probe, SaysWhyItCannotStart) {
  const Scratch scratch;
  const auto held = ProbeLog::open(scratch / "log");
  ASSERT_TRUE(held);
  const ProbeConfig config{.log = scratch / "log", .services = {http_service("http://127.0.0.1:1/")}};
  const auto result = run_probe(config, {});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind, ErrorKind::refused);
}

// --- findings ----------------------------------------------------------------------------------------------------

Finding find(Prober& prober, int timeout_ms = 2'000) { return prober.probe(Deadline::in(Millis(timeout_ms)), {}); }

TEST(Http, FindsWhatThereIs) {
  Server server;
  Resolver resolver;
  auto prober = make_http_prober(*parse_http_target(server.url()), resolver);
  ASSERT_TRUE(prober);
  auto finding = find(**prober);
  EXPECT_EQ(finding.outcome, ProbeOutcome::ok);
  EXPECT_EQ(finding.host, "here");
  server.status = 503;
  finding = find(**prober);
  EXPECT_EQ(finding.outcome, ProbeOutcome::failed);
  EXPECT_EQ(finding.error, "http-503");
  EXPECT_EQ(finding.host, "here");
  server.status = 200;
  server.truncate = true;
  EXPECT_EQ(find(**prober).error, "truncated");
  server.truncate = false;
  server.delay_ms = 60'000;
  finding = find(**prober, 50);
  EXPECT_EQ(finding.outcome, ProbeOutcome::timeout);
  EXPECT_EQ(finding.error, "timeout");
  server.close();
  EXPECT_EQ(find(**prober).error, "refused");
}

TEST(Http, ATlsServerThatIsNoneIsNamed) {
  Server server;
  Resolver resolver;
  auto target = *parse_http_target(server.url());
  target.tls = true;
  auto prober = make_http_prober(target, resolver);
  ASSERT_TRUE(prober) << prober.error().text();
  const auto finding = find(**prober);
  EXPECT_EQ(finding.outcome, ProbeOutcome::failed);
  EXPECT_TRUE(finding.error == "tls" || finding.error == "closed") << finding.error;
}

TEST(Http, AnswersInPieces) {
  using State = HttpAnswer::State;
  const auto in_pieces = [](std::string_view text, bool close) {
    HttpAnswer answer;
    auto state = State::reading;
    for (const char c : text) {
      if (state == State::reading) state = answer.feed(std::string_view(&c, 1));
    }
    return close && state == State::reading ? answer.close() : state;
  };
  EXPECT_EQ(in_pieces("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", false), State::whole);
  EXPECT_EQ(in_pieces("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", true), State::broken);
  EXPECT_EQ(in_pieces("HTTP/1.1 200 OK\r\n\r\nanything", true), State::whole);
  EXPECT_EQ(in_pieces("HTTP/1.1 204 No\r\n\r\n", false), State::whole);
  EXPECT_EQ(in_pieces("HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false), State::whole);
  EXPECT_EQ(in_pieces("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false), State::whole);
  EXPECT_EQ(in_pieces("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true), State::broken);
  EXPECT_EQ(in_pieces("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", false), State::broken);
  EXPECT_EQ(in_pieces("", true), State::broken);
  EXPECT_EQ(in_pieces("SSH-2.0-OpenSSH_9.2p1 Debian\r\n\r\n", false), State::broken);
  EXPECT_EQ(HttpAnswer().feed(std::string((1u << 20) + 1, 'x')), State::broken);
}

TEST(Tcp, FindsAListenerOnEitherFamily) {
  Resolver resolver;
  for (const auto* address : {"127.0.0.1", "::1"}) {
    const auto listener = listen_tcp(address, 0);
    if (!listener && std::string_view(address) == "::1") GTEST_SKIP() << "no IPv6 on lo here";
    ASSERT_TRUE(listener);
    const auto prober = make_tcp_prober({address, *local_port(listener->get())}, resolver);
    EXPECT_EQ(find(*prober).outcome, ProbeOutcome::ok) << address;
  }
}

TEST(Resolver, KnowsNumbersAndTheHostsFile) {
  Resolver resolver;
  EXPECT_EQ(*resolver.lookup("192.0.2.1", Deadline::in(Millis(0)), {}), std::vector<std::string>{"192.0.2.1"});
  const auto local = resolver.lookup("localhost", Deadline::in(Millis(5'000)), {});
  ASSERT_TRUE(local) << local.error().text();
  EXPECT_FALSE(local->empty());
  EXPECT_FALSE(resolver.lookup("no-such-host.invalid", Deadline::in(Millis(1)), {}));
}

// --- the order of findings ---------------------------------------------------------------------------------------

TEST(Lane, RecordsComeInTheOrderOfTheirSlots) {
  std::vector<std::int64_t> told;
  Lane lane(Nanos(0), milliseconds(100), 10, [&](const RunLine& run) { told.push_back(run.first_seq); });
  const auto record = [](std::int64_t seq) { return RunLine{.first_seq = seq, .last_seq = seq}; };
  const auto a = lane.take(Nanos(0));
  const auto b = lane.take(Nanos(0));
  const auto c = lane.take(Nanos(0));
  EXPECT_EQ(a.seq, 10);
  EXPECT_EQ(b.due, Nanos(milliseconds(100)));
  lane.end(c.seq, record(c.seq));
  lane.end(b.seq, std::nullopt);
  EXPECT_TRUE(told.empty());
  lane.end(a.seq, record(a.seq));
  EXPECT_EQ(told, (std::vector<std::int64_t>{10, 12}));
}

TEST(Lane, SlotsThatArePastAreLeftOut) {
  Lane lane(Nanos(0), milliseconds(100), 1, [](const RunLine&) {});
  EXPECT_EQ(lane.take(Nanos(0)).seq, 1);
  EXPECT_EQ(lane.take(milliseconds(1'050)).seq, 11);  // due at 1000
  EXPECT_EQ(lane.take(milliseconds(1'050)).seq, 12);
}

// --- the log as a file -------------------------------------------------------------------------------------------

SessionLine session() { return {.boot_id = "b", .wall_ms = 1, .targets = {{"web", false, milliseconds(100), milliseconds(1'000)}}}; }

RunLine run_line(std::int64_t seq) {
  return {.first_seq = seq, .last_seq = seq, .first_start = milliseconds(100 * seq), .last_start = milliseconds(100 * seq)};
}

void append_bytes(const fs::path& path, std::string_view bytes) { std::ofstream(path, std::ios::app | std::ios::binary) << bytes; }

TEST(ProbeLog, ATornEndIsCutOff) {
  const Scratch scratch;
  const auto path = scratch / "log";
  const auto whole = encode_line(session()) + encode_line(run_line(1));
  const auto torn = encode_line(run_line(2));
  for (std::size_t size = 1; size < torn.size(); ++size) {
    fs::remove(path);
    append_bytes(path, whole + torn.substr(0, size));
    ASSERT_TRUE(read_meter(path)) << size;
    const auto log = ProbeLog::open(path);
    ASSERT_TRUE(log) << log.error().text();
    EXPECT_EQ((*log)->last_seq("web"), 1);
    EXPECT_EQ(fs::file_size(path), whole.size());
  }
}

TEST(ProbeLog, ABadLineWithGoodOnesBehindItIsCorrupt) {
  const Scratch scratch;
  const auto path = scratch / "log";
  auto bad = encode_line(run_line(1));
  bad[12] ^= 1;
  append_bytes(path, encode_line(session()) + bad);
  EXPECT_TRUE(read_meter(path));  // may be a torn end yet
  append_bytes(path, encode_line(run_line(2)));
  ASSERT_FALSE(read_meter(path));
  EXPECT_EQ(read_meter(path).error().kind, ErrorKind::corrupt);
  EXPECT_EQ(ProbeLog::open(path).error().kind, ErrorKind::corrupt);
  EXPECT_EQ(*read_file(path), encode_line(session()) + bad + encode_line(run_line(2)));  // the evidence stays
}

TEST(ProbeLog, IsReadWhileItGrows) {
  const Scratch scratch;
  const auto path = scratch / "log";
  MeterReader reader(path);
  EXPECT_EQ(reader.poll().error().kind, ErrorKind::retry);
  const auto log = ProbeLog::open(path);
  ASSERT_TRUE(log);
  (*log)->append(session());
  for (std::int64_t seq = 1; seq <= 5; ++seq) {
    (*log)->append(run_line(seq));
    ASSERT_TRUE((*log)->flush());
    ASSERT_TRUE(reader.poll());
    EXPECT_EQ(reader.meter().last_seq("web"), seq);
  }
  // A line that is only half there yet.
  const auto next = encode_line(run_line(6));
  append_bytes(path, next.substr(0, 10));
  ASSERT_TRUE(reader.poll());
  append_bytes(path, next.substr(10));
  ASSERT_TRUE(reader.poll());
  EXPECT_EQ(reader.meter().last_seq("web"), 6);
}

TEST(ProbeLog, OneWriterOnly) {
  const Scratch scratch;
  const auto first = ProbeLog::open(scratch / "log");
  ASSERT_TRUE(first);
  const auto second = ProbeLog::open(scratch / "log");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::refused);
}

TEST(ProbeLog, WritesOnItsOwn) {
  const Scratch scratch;
  const auto log = ProbeLog::open(scratch / "log");
  ASSERT_TRUE(log);
  (*log)->append(session());
  EXPECT_TRUE(eventually([&] { return fs::file_size(scratch / "log") > 0; }));
}

// --- the configuration -------------------------------------------------------------------------------------------

TEST(Config, ComesBackAsItWas) {
  const auto json = parse_json(R"({"log":"/var/lib/midstream/probe.log",
    "services":[{"name":"web","kind":"http","target":"http://shop.example:8080/health","every_ms":100,"timeout_ms":1000},
                {"name":"db","kind":"postgres","target":"host=db.example dbname=app","write":true,"password_file":"/p"},
                {"name":"mail","kind":"tcp","target":"[2001:db8::1]:25"}],
    "addresses":[{"address":"192.0.2.10","every_ms":20,"timeout_ms":200},{"address":"2001:db8::10"}]})");
  ASSERT_TRUE(json);
  const auto config = parse_probe_config(*json);
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->services[1].table, "probe");
  EXPECT_EQ(config->services[0].slow, milliseconds(250));
  EXPECT_EQ(config->addresses[1].every, milliseconds(20));
  EXPECT_EQ(to_json(*parse_probe_config(to_json(*config))), to_json(*config));
  const auto http = parse_http_target("http://shop.example:8080/health?x=1");
  ASSERT_TRUE(http);
  EXPECT_EQ(http->host, "shop.example");
  EXPECT_EQ(http->port, 8080);
  EXPECT_EQ(http->path, "/health?x=1");
  EXPECT_EQ(parse_http_target("https://[::1]")->host, "::1");
  EXPECT_EQ(parse_http_target("https://[::1]")->port, 443);
  EXPECT_EQ(parse_tcp_target("[2001:db8::1]:25")->host, "2001:db8::1");
}

TEST(Config, IsRefusedWhereItCannotBeProbed) {
  const std::string good = R"({"log":"/l","services":[{"name":"web","kind":"http","target":"http://h/"}]})";
  ASSERT_TRUE(parse_probe_config(*parse_json(good)));
  const auto replaced = [&](std::string_view from, std::string_view to) {
    auto text = good;
    text.replace(text.find(from), from.size(), to);
    return *parse_json(text);
  };
  for (const auto& [from, to] : std::initializer_list<std::pair<std::string_view, std::string_view>>{
           {R"("log":"/l",)", ""}, {"\"/l\"", "\"\""}, {"\"web\"", "\"Web!\""}, {"\"http\"", "\"smtp\""},
           {"http://h/", "ftp://h/"}, {"http://h/", "http://u@h/"}, {"http://h/", "http://h:x/"},
           {"\"name\"", "\"every_ms\":1,\"name\""}, {"\"name\"", "\"nmae\":1,\"name\""}, {"\"services\"", "\"servces\""},
           {"[{", "[{\"name\":\"web\",\"kind\":\"http\",\"target\":\"http://h/\"},{"}, {"[{", "5,\"x\":[{"},
           {"\"name\"", "\"table\":\"a; drop\",\"name\""}}) {
    EXPECT_FALSE(parse_probe_config(replaced(from, to))) << from << " " << to;
  }
  EXPECT_FALSE(parse_probe_config(*parse_json(R"({"log":"/l","addresses":[{"address":"h"}]})")));
  EXPECT_FALSE(parse_probe_config(*parse_json(R"({"log":"/l"})")));
}

// --- echoes ------------------------------------------------------------------------------------------------------

TEST(Echo, MeasuresTheBlackoutOfAnAddress) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root for a network namespace and raw sockets";
  Island island;
  ASSERT_TRUE(island.enter()) << "cannot make a network namespace";
  island.lo(true);
  const Scratch scratch;
  // 127.0.0.9 answers like 127.0.0.1; ::1 stays on lo; 192.0.2.1 has no route.
  Running probe({.log = scratch / "log",
                 .addresses = {{.address = "127.0.0.9", .timeout = milliseconds(2'000)}, {.address = "::1", .timeout = milliseconds(2'000)},
                               {.address = "192.0.2.1"}}});
  ASSERT_TRUE(eventually([&] { return probe.figures("127.0.0.9").requests > 20 && probe.figures("::1").requests > 20; }));
  EXPECT_EQ(probe.figures("127.0.0.9").failed, 0);
  EXPECT_EQ(probe.figures("::1").failed, 0);
  const auto down = boot_now();
  island.lo(false);
  ASSERT_TRUE(eventually([&] { return probe.figures("127.0.0.9").failed > 10; }));
  island.lo(true);
  const auto up = boot_now();
  ASSERT_TRUE(eventually([&] {
    const auto f = probe.figures("127.0.0.9");
    return f.interval_count == 1 && f.intervals[0].end == DownInterval::End::up;
  }));
  ASSERT_TRUE(probe.stop());
  const auto f = probe.figures("127.0.0.9");
  EXPECT_LE(f.lower, up - down + milliseconds(20));
  EXPECT_GE(f.upper, f.lower);
  EXPECT_GE(f.lower, Nanos(milliseconds(150)));
  const auto none = probe.figures("192.0.2.1");
  EXPECT_EQ(none.failed, none.requests);
  EXPECT_EQ(none.intervals[0].error, "unreachable");
}

}  // namespace
}  // namespace midstream
