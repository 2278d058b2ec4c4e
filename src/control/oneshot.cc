#include "control/oneshot.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/text.h"
#include "sys/file.h"

namespace midstream {

namespace {

constexpr Millis kForever{365ll * 86'400'000};

// Questions for another host go back over our own link: the controller asks there. For one thread.
class RelayedPeers final : public Peers {
 public:
  explicit RelayedPeers(Stream& stream) : stream_(stream) {}
  Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args, const Task&, Deadline deadline,
                    const std::stop_token& stop) override {
    CHECK_OK(write_message(stream_, {{"type", "peer"}, {"host", host}, {"mover", mover}, {"verb", verb}, {"args", args}}, deadline, stop));
    const auto reply = TRY(read_message(stream_, deadline, stop));
    if (!get_bool_or(reply, "ok", false)) return std::unexpected(error_from_json(reply.value("error", Json::object())));
    return reply.value("result", Json::object());
  }
  Result<std::unique_ptr<Stream>> open(const std::string&, std::string_view, const Json&, const Task&, Deadline, const std::stop_token&) override {
    return refused("a check opens no stream to another host");
  }

 private:
  Stream& stream_;
};

Json own_addresses() {
  Json out = Json::array();
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return out;
  for (const auto* one = list; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET6_ADDRSTRLEN] = "";
    if (one->ifa_addr->sa_family == AF_INET) {
      ::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(one->ifa_addr)->sin_addr, text, sizeof text);
    } else if (one->ifa_addr->sa_family == AF_INET6) {
      ::inet_ntop(AF_INET6, &reinterpret_cast<sockaddr_in6*>(one->ifa_addr)->sin6_addr, text, sizeof text);
    }
    if (*text != '\0') out.push_back(text);
  }
  ::freeifaddrs(list);
  return out;
}

Result<Json> host_facts() {
  struct sysinfo info {};
  struct statvfs disk {};
  if (::sysinfo(&info) != 0) return errno_failure("sysinfo", errno);
  if (::statvfs("/var", &disk) != 0) return errno_failure("statvfs /var", errno);
  return Json{{"memory", std::uint64_t{info.totalram} * info.mem_unit}, {"cpus", ::sysconf(_SC_NPROCESSORS_ONLN)},
              {"disk_free", std::uint64_t{disk.f_bavail} * disk.f_frsize}, {"wall_ms", wall_now_ms()}, {"addresses", own_addresses()}};
}

Json reply_of(const Result<Json>& result) {
  Json reply{{"type", "reply"}, {"ok", result.has_value()}};
  reply[result ? "result" : "error"] = result ? *result : to_json(result.error());
  return reply;
}

Result<Json> answer(const std::string& host, const std::vector<std::unique_ptr<Mover>>& movers, Stream& stream, const Json& request,
                    const std::stop_token& stop) {
  if (TRY(get_string(request, "type")) == "facts") return host_facts();
  const auto name = TRY(get_string(request, "mover"));
  const auto verb = TRY(get_string(request, "verb"));
  const Task task{get_string_or(request, "move", ""), "check", 0};
  RelayedPeers peers(stream);
  for (const auto& one : movers) {
    if (one->name() != name) continue;
    // The state directory does not exist: what a mover remembers, it does not remember here.
    const Context context{task, host, "/nonexistent", peers, Deadline::in(Millis(get_int_or(request, "deadline_ms", 10'000))), stop};
    if (get_string_or(request, "type", "") == "peer") return one->peer(context, verb, TRY(get_object(request, "args")));
    const auto desired = TRY(get_object(request, "desired"));
    if (verb == "check") return one->check(context, desired);
    if (verb == "observe") return one->observe(context, desired);
    return refused("a check changes nothing");
  }
  return refused(fmt::format("there is no mover '{}'", name));
}

}  // namespace

Result<Oneshot> Oneshot::open(const SshTarget& target, const std::string& move, const std::filesystem::path& agent_binary, Deadline deadline) {
  const auto binary = TRY(read_file(agent_binary, 512u << 20));
  const std::string upload =
      "umask 077 && d=$(mktemp -d /run/midstream-check.XXXXXXXX) && cat > $d/midstream-agent && chmod 700 $d/midstream-agent && echo $d";
  const auto exit = TRY(run_child(ssh_command(target, {upload}), binary, deadline));
  const auto directory = std::string(trim(exit.out));
  if (exit.code != 0) {
    return retry(fmt::format("cannot reach host {} by ssh ({}): {}", target.host, target.destination, printable(trim(exit.err))),
                 "check the address, the key and known_hosts: `ssh " + target.destination + "` must work without a prompt");
  }
  if (!directory.starts_with("/run/midstream-check.") || directory.find_first_of(" ;&|$`'\"\n") != std::string::npos) {
    return corrupt(fmt::format("host {} answered strangely: {}", target.host, printable(directory)), "its shell start-up files must print nothing");
  }
  auto child = TRY(Child::start(ssh_command(target, {directory + "/midstream-agent", "oneshot", "--host", target.host})));
  auto stream = make_fd_stream(Fd(::dup(child.out())), Fd(::dup(child.in())));
  return Oneshot(std::move(child), std::move(stream), move);
}

Result<> Oneshot::send(const Json& message, Deadline deadline) {
  auto sent = write_message(*stream_, message, deadline, {});
  cut_ |= !sent;
  return sent;
}

Result<Json> Oneshot::exchange(const Json& request, Deadline deadline, const Relay& relay) {
  CHECK_OK(send(request, deadline));
  while (true) {
    const auto received = read_message(*stream_, deadline, {});
    cut_ |= !received;
    const auto reply = TRY(received);
    if (get_string_or(reply, "type", "") == "peer") {
      const auto answered = relay ? relay(get_string_or(reply, "host", ""), reply) : Result<Json>(refused("no other host can be asked now"));
      CHECK_OK(send(reply_of(answered), deadline));
      continue;
    }
    if (!get_bool_or(reply, "ok", false)) return std::unexpected(error_from_json(reply.value("error", Json::object())));
    return reply.value("result", Json());
  }
}

Result<Json> Oneshot::facts(Deadline deadline) { return exchange({{"type", "facts"}}, deadline, {}); }

Result<Json> Oneshot::ask(std::string_view mover, std::string_view verb, const Json& desired, Deadline deadline, const Relay& relay) {
  return exchange({{"type", "call"}, {"move", move_}, {"mover", mover}, {"verb", verb}, {"desired", desired}, {"deadline_ms", deadline.remaining().count()}},
                  deadline, relay);
}

Result<Json> Oneshot::peer(const Json& question, Deadline deadline) {
  auto request = question;
  request["move"] = move_;
  request["deadline_ms"] = deadline.remaining().count();
  return exchange(request, deadline, {});
}

Result<> serve_oneshot(const std::string& host, const std::vector<std::unique_ptr<Mover>>& movers, const std::stop_token& stop) {
  auto stream = make_fd_stream(Fd(::dup(0)), Fd(::dup(1)));
  while (true) {
    auto request = read_message(*stream, Deadline::in(kForever), stop);
    if (!request) return {};
    const auto reply = reply_of(answer(host, movers, *stream, *request, stop));
    CHECK_OK(write_message(*stream, reply, Deadline::in(Millis(10'000)), stop));
  }
}

}  // namespace midstream
