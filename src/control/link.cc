#include "control/link.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <condition_variable>

#include "base/text.h"
#include "sys/file.h"

namespace midstream {

std::string agent_directory(const std::string& move) { return "/var/lib/midstream/" + move; }
std::string agent_service(const std::string& move) { return "midstream-agent-" + move; }
std::string agent_socket(const std::string& move) { return "/run/midstream/" + move + ".sock"; }

std::vector<std::string> ssh_command(const SshTarget& target, const std::vector<std::string>& remote) {
  std::vector<std::string> argv{"ssh"};
  if (!target.config.empty()) argv.insert(argv.end(), {"-F", target.config});
  for (const auto* option : {"BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=5", "ServerAliveInterval=2",
                             "ServerAliveCountMax=3", "LogLevel=ERROR"}) {
    argv.insert(argv.end(), {"-o", option});
  }
  argv.insert(argv.end(), {"-T", target.destination, "--"});
  argv.insert(argv.end(), remote.begin(), remote.end());
  return argv;
}

Result<std::string> run_ssh(const SshTarget& target, const std::vector<std::string>& remote, std::string_view input, Deadline deadline) {
  const auto exit = TRY(run_child(ssh_command(target, remote), input, deadline));
  if (exit.code == 255) {
    return retry(fmt::format("cannot reach host {} by ssh ({}): {}", target.host, target.destination, printable(trim(exit.err))),
                 "check the address, the key and known_hosts: `ssh " + target.destination + "` must work without a prompt");
  }
  if (exit.code != 0) return refused(fmt::format("on {}: {}", target.host, printable(trim(exit.err.empty() ? exit.out : exit.err))));
  return exit.out;
}

Result<> plain_for_shell(const SshTarget& target, const std::string& move) {
  if (is_plain_name(move) && is_plain_name(target.host)) return {};
  return refused("move and hosts must have plain names");
}

namespace {

constexpr Millis kForever{365ll * 86'400'000};

std::string sha256(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr);
  return to_hex({reinterpret_cast<char*>(digest), size});
}

}  // namespace

// Here and in departure.cc alone text for a remote shell is put together. Everything in it is fixed or was checked to be
// a plain name, a hex digest or a numeric address.
Result<> bootstrap_agent(const SshTarget& target, const std::string& move, const std::filesystem::path& agent_binary,
                         Deadline deadline) {
  CHECK_OK(plain_for_shell(target, move));
  const auto binary = TRY(read_file(agent_binary, 512u << 20));
  const auto build = sha256(binary);
  const auto directory = agent_directory(move);
  const auto running = TRY(run_ssh(target, {fmt::format("cat {0}/build 2>/dev/null; test -S {1} && echo serves || true", directory, agent_socket(move))},
                                   "", deadline));
  if (running.starts_with(build) && running.ends_with("serves\n")) return {};
  const auto install = fmt::format(
      "umask 077 && mkdir -p {0} && cat > {0}/midstream-agent.new && chmod 700 {0}/midstream-agent.new && "
      "mv {0}/midstream-agent.new {0}/midstream-agent && "
      "{0}/midstream-agent install --move {1} --host {2} --data {3} --build {4}",
      directory, move, target.host, target.data, build);
  return TRY(run_ssh(target, {install}, binary, deadline)), Result<>{};
}

Result<std::unique_ptr<AgentLink>> AgentLink::open(const SshTarget& target, const std::string& move, Deadline deadline,
                                                   std::function<void()> on_lost) {
  auto child = TRY(Child::start(ssh_command(target, {agent_directory(move) + "/midstream-agent", "connect", "--move", move})));
  // The child keeps its ends; we take copies so that child and stream each close their own.
  auto stream = make_fd_stream(Fd(::dup(child.out())), Fd(::dup(child.in())));
  std::unique_ptr<AgentLink> link(new AgentLink(std::move(child), std::move(stream)));
  auto hello = [&]() -> Result<Json> {
    CHECK_OK(write_message(*link->stream_, {{"type", "hello"}, {"id", 0}, {"version", 1}, {"move", move}}, deadline, {}));
    return read_message(*link->stream_, deadline, {});
  }();
  if (!hello) {
    return retry(fmt::format("the agent on {} does not answer: {}", target.host, hello.error().what),
                 "see that ssh works and the agent's service runs there");
  }
  if (!get_bool_or(*hello, "ok", false)) return std::unexpected(error_from_json(hello->value("error", Json::object())));
  link->hello_ = hello->value("result", Json::object());
  link->on_lost_ = std::move(on_lost);
  link->reader_ = std::jthread([raw = link.get()](const std::stop_token& stop) { raw->read_replies(stop); });
  return link;
}

AgentLink::~AgentLink() {
  reader_.request_stop();
  if (reader_.joinable()) reader_.join();
}

void AgentLink::request(Json message, Done done) {
  std::uint64_t id = 0;
  {
    std::lock_guard lock(mutex_);
    if (!lost_) {
      id = next_id_++;
      waiting_[id] = done;
    }
  }
  if (id == 0) return done(retry("the link to the agent is down"));
  message["id"] = id;
  std::lock_guard lock(write_mutex_);
  if (auto sent = write_message(*stream_, message, Deadline::in(Millis(10'000)), {}); !sent) child_.kill();
}

Result<Json> AgentLink::ask(Json message, Deadline deadline) {
  struct Shared {
    std::mutex mutex;
    std::condition_variable ready;
    std::optional<Result<Json>> answer;
  };
  auto shared = std::make_shared<Shared>();
  request(std::move(message), [shared](Result<Json> answer) {
    std::lock_guard lock(shared->mutex);
    shared->answer = std::move(answer);
    shared->ready.notify_all();
  });
  std::unique_lock lock(shared->mutex);
  if (!shared->ready.wait_for(lock, deadline.remaining(), [&] { return shared->answer.has_value(); })) {
    return failure(ErrorKind::unknown, "the agent did not answer in time");
  }
  return std::move(*shared->answer);
}

void AgentLink::read_replies(const std::stop_token& stop) {
  while (true) {
    auto reply = read_message(*stream_, Deadline::in(kForever), stop);
    if (!reply) return lose(reply.error().what);
    Done done;
    {
      std::lock_guard lock(mutex_);
      const auto found = waiting_.find(static_cast<std::uint64_t>(get_int_or(*reply, "id", 0)));
      if (found == waiting_.end()) continue;
      done = std::move(found->second);
      waiting_.erase(found);
    }
    if (get_bool_or(*reply, "ok", false)) {
      done(reply->value("result", Json::object()));
    } else {
      done(std::unexpected(error_from_json(reply->value("error", Json::object()))));
    }
  }
}

void AgentLink::lose(const std::string& why) {
  std::map<std::uint64_t, Done> orphans;
  {
    std::lock_guard lock(mutex_);
    lost_ = true;
    orphans.swap(waiting_);
  }
  for (auto& [id, done] : orphans) done(failure(ErrorKind::unknown, "the link to the agent broke: " + why));
  if (on_lost_) on_lost_();
}

}  // namespace midstream
