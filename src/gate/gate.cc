#include "gate/gate.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "gate/coordinator.h"
#include "gate/metrics_http.h"
#include "gate/worker.h"
#include "sys/clock.h"
#include "sys/log.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream::gate {

namespace {

constexpr Millis kControlTime{5'000};

Result<> answer(Fd fd, Coordinator& coordinator, const std::stop_token& stop) {
  const auto stream = make_fd_stream(std::move(fd));
  const auto deadline = Deadline::in(kControlTime);
  const auto request = TRY(read_message(*stream, deadline, stop));
  auto reply = coordinator.respond(request, stop);
  return write_message(*stream, reply ? *reply : Json{{"error", to_json(reply.error())}}, Deadline::in(kControlTime), stop);
}

Result<> serve_control(int listener, Coordinator& coordinator, const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    auto fd = accept_one(listener, stop);
    if (!fd && fd.error().kind == ErrorKind::cancelled) break;
    if (!fd) return std::unexpected(fd.error());
    if (const auto done = answer(std::move(*fd), coordinator, stop); !done) log_warn("gate", "control: {}", done.error().text());
  }
  return {};
}

Result<> make_servers(Shared& shared) {
  const auto& config = shared.config;
  if (!config.certificate_file.empty())
    shared.client_tls = TRY(TlsContext::for_clients(config.certificate_file, config.key_file));
  for (const auto& server : config.servers) {
    std::optional<TlsContext> tls;
    if (server.tls != TlsUse::off) tls = TRY(TlsContext::for_server(server));
    shared.servers.push_back({server, TRY(resolve_server(server)), std::move(tls)});
  }
  return {};
}

// No descriptor where none is asked for.
Result<Fd> listen_for_metrics(const Config& config) {
  if (config.metrics_address.empty()) return Fd();
  auto listener = TRY(listen_tcp(config.metrics_address, config.metrics_port));
  log_info("gate", "metrics: http://{}:{}/metrics", config.metrics_address, TRY(local_port(listener.get())));
  return listener;
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
  CHECK_OK(make_servers(shared));
  const auto listener = TRY(listen_tcp(shared.config.listen_address, shared.config.listen_port));
  ::fcntl(listener.get(), F_SETFL, ::fcntl(listener.get(), F_GETFL) | O_NONBLOCK);
  const auto control = TRY(listen_unix(shared.config.control));
  const auto metrics = TRY(listen_for_metrics(shared.config));
  std::atomic<std::uint64_t> next_id = 16;  // below are the workers' own tokens
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < shared.config.threads; ++i) workers.push_back(TRY(Worker::start(shared, listener.get(), next_id)));
  // The descriptor stays, for the workers have it; connections are refused from then on.
  Coordinator coordinator(shared, workers, [&] { ::shutdown(listener.get(), SHUT_RDWR); });
  const std::jthread watching([&](const std::stop_token& own) { coordinator.watch(own); });
  const std::jthread measured([&](const std::stop_token& own) {
    if (metrics) serve_metrics(metrics.get(), [&] { return prometheus_text(coordinator.metrics()); }, own);
  });
  listening(TRY(local_port(listener.get())));
  return serve_control(control.get(), coordinator, stop);
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
