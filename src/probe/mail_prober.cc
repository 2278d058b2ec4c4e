// Mail is up where every door of it that the configuration names is open, one after the other.
#include <fmt/format.h>

#include "base/text.h"
#include "probe/mail_dialog.h"
#include "sys/file.h"

namespace midstream {

namespace {

constexpr auto kAgain = std::chrono::milliseconds(200);
constexpr std::size_t kMostLogin = 1'024;

class MailProber final : public Prober {
 public:
  MailProber(std::vector<MailDoor> doors, std::optional<Login> login, Resolver& resolver,
             std::shared_ptr<TlsContext> tls)
      : doors_(std::move(doors)), login_(std::move(login)), resolver_(resolver), tls_(std::move(tls)) {}

  Finding probe(Deadline deadline, const std::stop_token& stop) override {
    Finding finding{ProbeOutcome::ok, "", ""};
    for (const auto& door : doors_) {
      auto one = patiently(door, deadline, stop);
      if (!one.error.empty()) finding = std::move(one);
      if (finding.outcome != ProbeOutcome::ok) return finding;
    }
    return finding;
  }

 private:
  // As mail clients and servers do: told to come back, or hung up on, they come back.
  Finding patiently(const MailDoor& door, Deadline deadline, const std::stop_token& stop) {
    std::string reason;  // of the first try that failed
    while (true) {
      const auto answer = once(door, deadline, stop);
      if (answer.state == DoorState::open) return {ProbeOutcome::ok, word_for(reason), ""};
      // Nobody there right after "come back" is part of the same pause.
      const bool again = answer.state == DoorState::later || (!reason.empty() && nobody(answer.error));
      if (reason.empty()) reason = answer.error;
      const auto left = deadline.remaining();
      const bool over = !again || left <= kAgain || !pause_for(kAgain, stop);
      if (over)
        return {deadline.expired() && reason == "timeout" ? ProbeOutcome::timeout : ProbeOutcome::failed,
                again ? reason : answer.error, ""};
    }
  }

  DoorAnswer once(const MailDoor& door, Deadline deadline, const std::stop_token& stop) {
    const auto addresses = resolver_.lookup(door.at.host, deadline, stop);
    if (!addresses) return {DoorState::shut, "dns"};
    auto fd = connect_any(*addresses, door.at.port, deadline, stop);
    if (!fd) return {DoorState::shut, fd.error().error};
    return try_door(door, login_ ? &*login_ : nullptr, std::move(*fd), *tls_, deadline, stop);
  }

  static bool nobody(const std::string& error) {
    return error == "refused" || error == "unreachable" || error == "dns" || error == "timeout";
  }
  static std::string word_for(const std::string& reason) {
    if (reason.empty()) return "";
    return reason.starts_with("smtp-4") || reason == "imap-unavailable" ? "deferred" : "reconnected";
  }

  const std::vector<MailDoor> doors_;
  const std::optional<Login> login_;
  Resolver& resolver_;
  const std::shared_ptr<TlsContext> tls_;  // shared by the probes in flight
};

// "user password": one line, and nothing of it in any message.
Result<Login> read_login(const std::string& path) {
  const auto text = TRY(read_file(path, kMostLogin));
  const auto line = std::string(trim(text));
  const auto space = line.find(' ');
  const bool plain = std::ranges::none_of(line, [](char c) { return static_cast<unsigned char>(c) < ' '; });
  if (space == std::string::npos || space == 0 || space + 1 == line.size() || !plain) {
    return refused(fmt::format("{} is not one line with a user and a password", path),
                   "write USER PASSWORD into it, mode 0600");
  }
  return Login{line.substr(0, space), line.substr(space + 1)};
}

}  // namespace

Result<std::unique_ptr<Prober>> make_mail_prober(const ServiceProbe& service, Resolver& resolver) {
  auto doors = TRY(parse_mail_target(service.target));
  std::optional<Login> login;
  if (!service.password_file.empty()) login = TRY(read_login(service.password_file));
  return std::make_unique<MailProber>(std::move(doors), std::move(login), resolver, TRY(make_tls_context()));
}

}  // namespace midstream
