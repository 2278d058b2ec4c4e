// midstream-agent: the daemon on each host, and the small commands around it.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "apps/gate_config.h"
#include "apps/movers.h"
#include "apps/signals.h"
#include "control/agent.h"
#include "control/departure.h"
#include "control/link.h"
#include "control/oneshot.h"
#include "control/supervisor.h"
#include "gate/gate.h"
#include "movers/postgres/snapshot_holder.h"
#include "base/text.h"
#include "probe/probe.h"
#include "sys/file.h"
#include "sys/net.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string move;
  std::string host;
  std::string data;
  std::string build;
  std::string config;
  std::string journal;
  std::uint64_t epoch = 0;
  bool power_off = false;
  std::string socket;
};

Result<> serve(const Options& options, const std::stop_token& stop) {
  auto agent = TRY(Agent::open({options.move, options.host, options.data, agent_directory(options.move), agent_socket(options.move)}, make_movers()));
  return agent->serve(stop);
}

// stdin and stdout of the ssh session on one side, the agent's socket on the other; ends when either closes.
Result<> connect(const Options& options) {
  const auto deadline = Deadline::in(Millis(10'000));
  auto socket = connect_unix(agent_socket(options.move), deadline);
  while (!socket && !deadline.expired()) {
    pause_for(Millis(20), {});
    socket = connect_unix(agent_socket(options.move), deadline);
  }
  if (!socket) return std::unexpected(socket.error());
  char buffer[65536];
  const auto copy = [&](int from, int to) {
    const ssize_t n = ::read(from, buffer, sizeof buffer);
    if (n <= 0) return false;
    for (ssize_t done = 0; done < n;) {
      const ssize_t written = ::write(to, buffer + done, static_cast<std::size_t>(n - done));
      if (written <= 0) return false;
      done += written;
    }
    return true;
  };
  while (true) {
    pollfd polled[2]{{0, POLLIN, 0}, {socket->get(), POLLIN, 0}};
    if (::poll(polled, 2, -1) < 0) return errno_failure("poll", errno);
    if (polled[0].revents != 0 && !copy(0, socket->get())) return {};
    if (polled[1].revents != 0 && !copy(socket->get(), 1)) return {};
  }
}

Result<> serve_gate(const Options& options, const std::stop_token& stop) {
  auto config = TRY(parse_gate_config(TRY(read_file(options.config, 1u << 20)), options.config));
  return gate::run_gate(std::move(config), [](std::uint16_t) {}, stop);
}

// stdin and stdout of a child of the mail mover's, joined to a socket of the agent's; each direction ends by itself.
Result<> pipe_to(const std::string& path) {
  const auto socket = TRY(connect_unix(path, Deadline::in(Millis(10'000))));
  pollfd polled[2]{{0, POLLIN, 0}, {socket.get(), POLLIN, 0}};
  char buffer[65536];
  while (polled[1].fd >= 0) {
    if (::poll(polled, 2, -1) < 0) return errno_failure("poll", errno);
    for (int i = 0; i < 2; ++i) {
      if (polled[i].fd < 0 || polled[i].revents == 0) continue;
      const ssize_t n = ::read(polled[i].fd, buffer, sizeof buffer);
      for (ssize_t done = 0; done < n;) {
        const ssize_t written = ::write(i == 0 ? socket.get() : 1, buffer + done, static_cast<std::size_t>(n - done));
        if (written <= 0) return {};
        done += written;
      }
      if (n > 0) continue;
      if (i == 0) ::shutdown(socket.get(), SHUT_WR);
      polled[i].fd = -1;
    }
  }
  return {};
}

// An agent of an older build holds the lock and knows nothing of the new file: it is told to end, and the
// supervisor starts the new one.
void end_running_agent(const fs::path& directory) {
  const auto pid = read_file(directory / "pid");
  Fd lock(::open((directory / "lock").c_str(), O_RDWR | O_CLOEXEC));
  if (!lock || ::flock(lock.get(), LOCK_EX | LOCK_NB) == 0 || !pid) return;
  const int number = std::atoi(pid->c_str());
  if (number > 1) ::kill(number, SIGTERM);
}

Result<> wait_until_served(const std::string& move, Deadline deadline) {
  while (!deadline.expired()) {
    if (auto socket = connect_unix(agent_socket(move), deadline)) {
      const auto stream = make_fd_stream(std::move(*socket));
      if (write_message(*stream, {{"type", "hello"}, {"id", 0}, {"move", move}}, deadline, {}) && read_message(*stream, deadline, {})) return {};
    }
    pause_for(Millis(20), {});
  }
  return retry("the agent's service was installed but does not answer", "look at its log under the host's supervisor");
}

Result<> install(const Options& options) {
  if (!is_plain_name(options.move) || !is_plain_name(options.host)) return refused("move and host must be plain names");
  const fs::path directory = agent_directory(options.move);
  const auto binary = (directory / "midstream-agent").string();
  end_running_agent(directory);
  CHECK_OK(install_service(agent_service(options.move),
                           {binary, "serve", "--move", options.move, "--host", options.host, "--data", options.data}));
  CHECK_OK(wait_until_served(options.move, Deadline::in(Millis(15'000))));
  return write_file_durably(directory / "build", options.build + "\n", 0600);
}

// The answer leaves first: what carries it goes down with the host.
Result<> power_off_soon() {
  const pid_t pid = ::fork();
  if (pid < 0) return errno_failure("cannot fork", errno);
  if (pid > 0) return {};
  ::setsid();
  ::close_range(0, ~0u, 0);
  pause_for(Millis(1'000), {});
  const auto asked = power_off();
  ::_exit(asked ? 0 : 1);
}

Result<> uninstall(const Options& options) {
  if (!is_plain_name(options.move)) return refused("move must be a plain name");
  CHECK_OK(remove_all_of_ours(options.move, options.journal, options.epoch, Deadline::in(Millis(20'000))));
  return options.power_off ? power_off_soon() : Result<>{};
}

Result<> evidence(const Options& options) {
  if (!is_plain_name(options.move)) return refused("move must be a plain name");
  return hand_over_evidence(options.move, Deadline::in(Millis(20'000)));
}

Result<> oneshot(const Options& options, const std::stop_token& stop) {
  auto served = serve_oneshot(options.host, make_movers(), stop);
  std::error_code ignored;
  const auto self = fs::read_symlink("/proc/self/exe", ignored);
  // Only ever what Oneshot::open put there.
  if (self.parent_path().string().starts_with("/run/midstream-check.")) fs::remove_all(self.parent_path(), ignored);
  return served;
}

Result<> probe(const Options& options, const std::stop_token& stop) {
  return run_probe(TRY(parse_probe_config(TRY(parse_json(TRY(read_file(options.config)))))), stop);
}

int report(const Result<>& result) {
  if (result) return 0;
  fmt::print(stderr, "midstream-agent: {}\n", result.error().text());
  return 1;
}

int main_with(int argc, char** argv) {
  ::umask(077);
  CLI::App app{"midstream-agent: the part of midstream that runs on a host of a move"};
  app.require_subcommand(1);
  Options options;
  const auto add = [&](const char* name, const char* text, std::initializer_list<const char*> wanted) {
    auto* command = app.add_subcommand(name, text);
    for (const std::string_view flag : wanted) {
      auto& value = flag == "--move" ? options.move : flag == "--host" ? options.host : flag == "--data" ? options.data
                    : flag == "--build" ? options.build : flag == "--journal" ? options.journal : options.config;
      command->add_option(std::string(flag), value)->required();
    }
    return command;
  };
  const auto* serving = add("serve", "serve as the agent; started by the host's supervisor", {"--move", "--host", "--data"});
  const auto* connecting = add("connect", "join stdin and stdout to the agent on this host", {"--move"});
  const auto* installing = add("install", "make this file the agent's service on this host", {"--move", "--host", "--data", "--build"});
  auto* removing = add("uninstall", "remove services, state and file of a move from this host", {"--move", "--journal"});
  removing->add_option("--epoch", options.epoch, "of the controller that asks; refused where a newer one is in force")->required();
  removing->add_flag("--power-off", options.power_off, "then shut the host down");
  const auto* telling = add("evidence", "end the probe of a move and print its log", {"--move"});
  const auto* looking = add("oneshot", "answer read-only questions on stdin, then remove this file", {"--host"});
  const auto* probing = add("probe", "probe services as the configuration says", {"--config"});
  const auto* gating = add("gate", "be the PostgreSQL session gate that the configuration describes", {"--config"});
  auto* piping = app.add_subcommand("pipe", "join stdin and stdout to a unix socket; used by the mail mover");
  piping->add_option("socket", options.socket)->required();
  piping->allow_extras();  // Dovecot says what the other end is to run; it runs it anyway
  const auto* holding = add("hold-snapshot", "hold a copy's snapshot; order on stdin; used by the postgres mover", {});
  CLI11_PARSE(app, argc, argv);
  if (*piping) return report(pipe_to(options.socket));
  if (*connecting) return report(connect(options));  // keeps the default signals: the ssh session ends it
  if (*holding) return report(postgres::hold_snapshot());
  StopOnSignal signals;
  if (*serving) return report(serve(options, signals.token()));
  if (*installing) return report(install(options));
  if (*removing) return report(uninstall(options));
  if (*telling) return report(evidence(options));
  if (*looking) return report(oneshot(options, signals.token()));
  if (*probing) return report(probe(options, signals.token()));
  if (*gating) return report(serve_gate(options, signals.token()));
  return 1;
}

}  // namespace
}  // namespace midstream

int main(int argc, char** argv) { return midstream::main_with(argc, argv); }
