#include "gate/gate.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>

#include "gate/worker.h"
#include "sys/clock.h"
#include "sys/log.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream::gate {

namespace {

constexpr Millis kControlTime{5'000};
constexpr Millis kLongestHold{60'000};

Json sessions_of(const std::vector<std::unique_ptr<Worker>>& workers) {
  std::vector<Json> all;
  for (const auto& worker : workers)
    for (auto& one : worker->sessions()) all.push_back(std::move(one));
  std::ranges::sort(all, {}, [](const Json& one) { return one["id"].get<std::uint64_t>(); });
  return {{"sessions", all}};
}

// All workers together: {"holding", "left_ms", "sessions", "in_the_way"}.
Json held_by(const std::vector<std::unique_ptr<Worker>>& workers) {
  Json out{{"holding", true}, {"left_ms", 0}, {"in_the_way", Json::array()}};
  std::size_t sessions = 0;
  for (const auto& worker : workers) {
    const auto held = worker->held();
    sessions += held.sessions;
    if (held.until.count() == 0) out["holding"] = false;
    out["left_ms"] = std::max<std::int64_t>(0, std::chrono::duration_cast<Millis>(held.until - boot_now()).count());
    for (const auto& one : held.in_the_way) out["in_the_way"].push_back(one);
  }
  out["sessions"] = sessions;
  return out;
}

Result<Json> respond(const Json& request, const std::vector<std::unique_ptr<Worker>>& workers) {
  const auto verb = TRY(get_string(request, "verb"));
  if (verb == "sessions") return sessions_of(workers);
  if (verb == "held") return held_by(workers);
  if (verb != "hold" && verb != "release") return refused(fmt::format("the gate does not know '{}'", verb));
  const auto span = verb == "release" ? 0 : TRY(get_int(request, "for_ms"));
  if (span < 0 || span > kLongestHold.count())
    return refused(fmt::format("a hold of {} ms is out of bounds", span), fmt::format("at most {} ms", kLongestHold.count()));
  const auto until = boot_now() + Millis(span);
  for (const auto& worker : workers) worker->hold(until);
  return held_by(workers);
}

Result<> answer(Fd fd, const std::vector<std::unique_ptr<Worker>>& workers, const std::stop_token& stop) {
  const auto stream = make_fd_stream(std::move(fd));
  const auto deadline = Deadline::in(kControlTime);
  const auto request = TRY(read_message(*stream, deadline, stop));
  auto reply = respond(request, workers);
  return write_message(*stream, reply ? *reply : Json{{"error", to_json(reply.error())}}, deadline, stop);
}

Result<> serve_control(int listener, const std::vector<std::unique_ptr<Worker>>& workers, const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    auto fd = accept_one(listener, stop);
    if (!fd && fd.error().kind == ErrorKind::cancelled) break;
    if (!fd) return std::unexpected(fd.error());
    if (const auto done = answer(std::move(*fd), workers, stop); !done) log_warn("gate", "control: {}", done.error().text());
  }
  return {};
}

Result<> make_contexts(Shared& shared) {
  const auto& config = shared.config;
  if (!config.certificate_file.empty())
    shared.client_tls = TRY(TlsContext::for_clients(config.certificate_file, config.key_file));
  if (config.server.tls != TlsUse::off) shared.server_tls = TRY(TlsContext::for_server(config.server));
  return {};
}

// Two sockets a session: as many as the system allows at all.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

Result<> run_gate(Config config, const std::function<void(std::uint16_t port)>& listening, const std::stop_token& stop) {
  Shared shared{.config = std::move(config), .mock_seed = random_bytes(32)};
  raise_file_limit();
  CHECK_OK(make_contexts(shared));
  shared.server = TRY(resolve_server(shared.config.server));
  const auto listener = TRY(listen_tcp(shared.config.listen_address, shared.config.listen_port));
  ::fcntl(listener.get(), F_SETFL, ::fcntl(listener.get(), F_GETFL) | O_NONBLOCK);
  const auto control = TRY(listen_unix(shared.config.control));
  std::atomic<std::uint64_t> next_id = 16;  // below are the workers' own tokens
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < shared.config.threads; ++i) workers.push_back(TRY(Worker::start(shared, listener.get(), next_id)));
  listening(TRY(local_port(listener.get())));
  return serve_control(control.get(), workers, stop);
}

Result<Json> ask_gate(const std::filesystem::path& control, const Json& request) {
  const auto deadline = Deadline::in(kControlTime);
  const auto stream = make_fd_stream(TRY(connect_unix(control, deadline)));
  CHECK_OK(write_message(*stream, request, deadline, {}));
  auto reply = TRY(read_message(*stream, deadline, {}));
  if (reply.contains("error")) return std::unexpected(error_from_json(reply["error"]));
  return reply;
}

}  // namespace midstream::gate
