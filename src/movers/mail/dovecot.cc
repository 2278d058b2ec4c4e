#include "movers/mail/dovecot.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "base/text.h"
#include "sys/fd.h"
#include "sys/file.h"

namespace midstream::mail {

namespace {

std::string first_line(const std::string& text) {
  return printable(std::string(trim(text.substr(0, text.find('\n')))));
}

std::vector<std::string> lines_of(const std::string& text) {
  auto lines = split(text, '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

std::string hash_of(std::string_view text) {
  const auto hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

// Flags without \Recent, which belongs to a session, in one order.
std::string settled_flags(std::string_view flags) {
  auto words = split(flags, ' ');
  std::erase_if(words, [](const std::string& word) { return word.empty() || word == "\\Recent"; });
  std::ranges::sort(words);
  return join(words, " ");
}

// Rows of doveadm's tab format as maps from column to text.
std::vector<std::map<std::string, std::string>> rows_of(const std::string& text) {
  std::vector<std::map<std::string, std::string>> rows;
  std::vector<std::string> columns;
  for (const auto& line : lines_of(text)) {
    const auto cells = split(line, '\t');
    if (columns.empty()) {
      columns = cells;
      continue;
    }
    std::map<std::string, std::string> row;
    for (std::size_t i = 0; i < columns.size() && i < cells.size(); ++i) row[columns[i]] = cells[i];
    rows.push_back(std::move(row));
  }
  return rows;
}

// Text that a child can read, by its name, while this lives.
class NamedText {
 public:
  static Result<NamedText> of(std::string_view text) {
    NamedText named;
    named.fd_ = Fd(::memfd_create("midstream-mail", MFD_CLOEXEC));
    if (!named.fd_) return errno_failure("cannot make a list of users", errno);
    while (!text.empty()) {
      const auto n = ::write(named.fd_.get(), text.data(), text.size());
      if (n < 0 && errno != EINTR) return errno_failure("cannot write a list of users", errno);
      if (n > 0) text.remove_prefix(static_cast<std::size_t>(n));
    }
    return named;
  }
  std::string name() const { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get()); }

 private:
  Fd fd_;
};

}  // namespace

std::vector<std::string> Dovecot::doveadm(std::vector<std::string> words) const {
  std::vector<std::string> argv{"doveadm", "-c", conf_.string()};
  argv.insert(argv.end(), std::make_move_iterator(words.begin()), std::make_move_iterator(words.end()));
  return argv;
}

Result<std::string> Dovecot::run(std::vector<std::string> words, const Limits& limits) const {
  const auto what = fmt::format("doveadm {}", words[0] == "-f" && words.size() > 2 ? words[2] : words[0]);
  auto exit = TRY(run_child(doveadm(std::move(words)), "", limits.deadline, limits.stop));
  if (exit.code == 0) return std::move(exit.out);
  const auto said = fmt::format("{} ended with {}: {}", what, exit.code, first_line(exit.err));
  return exit.code == 75 || exit.code == 2 ? retry(said) : refused(said);
}

Result<> Dovecot::reload(const Limits& limits) const {
  TRY(run({"reload"}, limits));
  return {};
}

Result<std::string> Dovecot::setting(const std::string& name, const std::string& filter, const Limits& limits) const {
  std::vector<std::string> argv{"doveconf", "-c", conf_.string(), "-h"};
  if (!filter.empty()) argv.insert(argv.end(), {"-f", filter});
  argv.push_back(name);
  const auto exit = TRY(run_child(argv, "", limits.deadline, limits.stop));
  if (exit.code != 0)
    return refused(fmt::format("Dovecot's configuration cannot be read: {}", first_line(exit.err)),
                   "run doveconf -n and mend it");
  return std::string(trim(exit.out));
}

Result<std::vector<std::string>> Dovecot::users(const Limits& limits) const {
  auto users = lines_of(TRY(run({"user", "*"}, limits)));
  std::ranges::sort(users);
  return users;
}

Result<std::filesystem::path> Dovecot::home(const std::string& user, const Limits& limits) const {
  const auto text = std::string(trim(TRY(run({"user", "-f", "home", user}, limits))));
  if (!text.starts_with('/') || text.find("/../") != std::string::npos || text.size() < 3)
    return refused(fmt::format("the home of mail user {} is '{}'", user, printable(text)),
                   "give the user a home of its own in the userdb");
  return std::filesystem::path(text);
}

Result<std::uint64_t> Dovecot::serial(const std::string& user, const Limits& limits) const {
  const auto exit = TRY(run_child(doveadm({"auth", "lookup", "-x", "service=imap", "-f", "serial", user}), "",
                                  limits.deadline, limits.stop));
  if (exit.code == 75) return retry(fmt::format("Dovecot's auth service does not answer: {}", first_line(exit.err)));
  const auto text = trim(exit.out);
  std::uint64_t serial = 0;
  std::from_chars(text.data(), text.data() + text.size(), serial);
  return serial;
}

Result<std::map<std::string, std::set<pid_t>>> Dovecot::sessions(const std::vector<std::string>& users,
                                                                 const Limits& limits) const {
  std::map<std::string, std::set<pid_t>> found;
  for (const auto& row : rows_of(TRY(run({"-f", "tab", "who", "-1"}, limits)))) {
    const auto user = row.find("username");
    const auto pid = row.find("pid");
    if (user == row.end() || pid == row.end() || std::ranges::find(users, user->second) == users.end()) continue;
    found[user->second].insert(std::atoi(pid->second.c_str()));
  }
  return found;
}

Result<> Dovecot::kick(const std::string& user, const Limits& limits) const {
  const auto exit = TRY(run_child(doveadm({"kick", user}), "", limits.deadline, limits.stop));
  if (exit.code != 0 && exit.code != 68)
    return retry(fmt::format("doveadm kick: {}", first_line(exit.err)));  // 68: there was nobody
  return {};
}

bool is_delivering(std::string_view title) {
  const auto from = title.find('[');
  if (from == std::string_view::npos) return false;  // no client
  const auto body = title.substr(from + 1, title.find(']', from) - from - 1);
  const auto space = body.find(' ');
  if (space == std::string_view::npos) return body != "idling";
  const auto state = body.substr(space + 1);
  for (const std::string_view idle :
       {"GREETING", "READY", "LHLO", "MAIL FROM", "QUIT", "RSET", "VRFY", "XCLIENT", "STARTTLS"})
    if (state.starts_with(idle)) return false;
  return true;
}

Result<std::map<pid_t, std::string>> Dovecot::deliveries(const Limits& limits) const {
  std::map<pid_t, std::string> busy;
  for (const auto& row : rows_of(TRY(run({"-f", "tab", "process", "status", "lmtp"}, limits)))) {
    const auto pid = row.find("pid");
    if (pid == row.end()) continue;
    auto title = read_file(fmt::format("/proc/{}/cmdline", pid->second)).value_or("");
    std::ranges::replace(title, '\0', ' ');
    if (is_delivering(title)) busy[std::atoi(pid->second.c_str())] = title;
  }
  return busy;
}

Result<std::vector<Dovecot::Row>> Dovecot::table(const std::vector<std::string>& words,
                                                 const std::vector<std::string>& users,
                                                 const std::vector<std::string>& rest, const Limits& limits) const {
  if (users.empty()) return std::vector<Row>();
  const auto list = TRY(NamedText::of(join(users, "\n") + "\n"));
  std::vector<std::string> argv{"-f", "tab"};
  argv.insert(argv.end(), words.begin(), words.end());
  argv.insert(argv.end(), {"-F", list.name()});
  argv.insert(argv.end(), rest.begin(), rest.end());
  auto rows = rows_of(TRY(run(std::move(argv), limits)));
  for (const auto& row : rows)
    if (!row.contains("Username")) return corrupt("doveadm's answer does not say whose it is");
  return rows;
}

// Nobody is without a mailbox: one of whom nothing is said was not looked at.
Result<std::vector<Dovecot::Row>> Dovecot::mailboxes(const std::string& fields, const std::vector<std::string>& users,
                                                     const Limits& limits) const {
  auto rows = TRY(table({"mailbox", "status"}, users, {fields, "*"}, limits));
  std::set<std::string> seen;
  for (const auto& row : rows) seen.insert(row.at("Username"));
  for (const auto& user : users)
    if (!seen.contains(user)) return retry(fmt::format("doveadm mailbox status says nothing of {}", user));
  return rows;
}

Result<Json> Dovecot::snapshots(const std::vector<std::string>& users, const Limits& limits) const {
  Json snapshots = Json::object();
  for (const auto& user : users) snapshots[user] = {{"subscriptions", ""}};
  for (const auto& row : TRY(mailboxes("uidvalidity guid", users, limits)))
    snapshots[row.at("Username")]["mailbox " + row.at("mailbox")] = {
        {"identity", fmt::format("guid {} uidvalidity {}", row.at("guid"), row.at("uidvalidity"))},
        {"messages", Json::object()}};
  for (const auto& row :
       TRY(table({"fetch"}, users, {"mailbox uid guid flags date.received size.physical", "mailbox", "*"}, limits))) {
    auto& snapshot = snapshots[row.at("Username")];
    const auto mailbox = snapshot.find("mailbox " + row.at("mailbox"));
    if (mailbox == snapshot.end()) continue;  // made since
    (*mailbox)["messages"][row.at("uid")] = fmt::format(
        "{} {}", hash_of(row.at("guid") + " " + row.at("date.received") + " " + row.at("size.physical")).substr(0, 16),
        settled_flags(row.at("flags")));
  }
  std::map<std::string, std::set<std::string>> subscribed;
  for (const auto& row : TRY(table({"mailbox", "list", "-s"}, users, {}, limits)))
    subscribed[row.at("Username")].insert(row.at("mailbox"));
  for (const auto& [user, names] : subscribed)
    snapshots[user]["subscriptions"] = join(std::vector<std::string>(names.begin(), names.end()), "\n");
  CHECK_OK(add_scripts(users, snapshots, limits));
  return snapshots;
}

Result<> Dovecot::add_scripts(const std::vector<std::string>& users, Json& snapshots, const Limits& limits) const {
  const auto scripts = table({"sieve", "list"}, users, {}, limits);
  if (!scripts && scripts.error().kind == ErrorKind::cancelled) return std::unexpected(scripts.error());
  if (!scripts) return {};  // no Pigeonhole here: nothing to compare
  for (const auto& row : *scripts) {
    const auto& user = row.at("Username");
    const auto text = TRY(run({"sieve", "get", "-u", user, row.at("script")}, limits));
    snapshots[user]["sieve " + row.at("script")] =
        fmt::format("{}{}", hash_of(text), row.at("active").empty() ? "" : " active");
  }
  return {};
}

Result<Json> Dovecot::counters(const std::vector<std::string>& users, const Limits& limits) const {
  Json counters = Json::object();
  for (const auto& row : TRY(mailboxes("messages uidnext uidvalidity guid unseen", users, limits))) {
    counters[row.at("Username")]["mailbox " + row.at("mailbox")] =
        fmt::format("guid {} uidvalidity {} uidnext {} messages {} unseen {}", row.at("guid"), row.at("uidvalidity"),
                    row.at("uidnext"), row.at("messages"), row.at("unseen"));
  }
  return counters;
}

std::string difference(const Json& here, const Json& there) {
  for (const auto& [key, value] : here.items()) {
    if (!there.contains(key)) return fmt::format("{} is on one side only", printable(key));
    if (there.at(key) != value)
      return fmt::format("{} differs: {} and {}", printable(key), printable(value.get<std::string>()),
                         printable(there.at(key).get<std::string>()));
  }
  for (const auto& [key, value] : there.items())
    if (!here.contains(key)) return fmt::format("{} is on one side only", printable(key));
  return "";
}

std::string steady_difference(const Json& before, const Json& there, const Json& after) {
  for (const auto& [key, value] : after.items()) {
    if (!before.contains(key)) continue;  // came meanwhile
    if (!value.is_object()) {
      if (before.at(key) == value && (!there.contains(key) || there.at(key) != value))
        return fmt::format("{} differs", printable(key));
      continue;
    }
    if (before.at(key).at("identity") != value.at("identity")) continue;
    if (!there.contains(key)) return fmt::format("{} is missing", printable(key));
    if (there.at(key).at("identity") != value.at("identity"))
      return fmt::format("{} has another identity: {}", printable(key), there.at(key).at("identity").dump());
    const auto& was = before.at(key).at("messages");
    const auto& copy = there.at(key).at("messages");
    for (const auto& [uid, message] : value.at("messages").items()) {
      if (!was.contains(uid) || was.at(uid) != message) continue;
      if (!copy.contains(uid) || copy.at(uid) != message)
        return fmt::format("message {} of {} is missing or different", uid, printable(key));
    }
    for (const auto& [uid, message] : copy.items()) {
      const auto identity = [](const Json& one) { return one.get<std::string>().substr(0, 16); };
      const bool known =
          (was.contains(uid) && identity(was.at(uid)) == identity(message)) ||
          (value.at("messages").contains(uid) && identity(value.at("messages").at(uid)) == identity(message));
      if (!known) return fmt::format("message {} of {} is on one side only", uid, printable(key));
    }
  }
  return "";
}

}  // namespace midstream::mail
