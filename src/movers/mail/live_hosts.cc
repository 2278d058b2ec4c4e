#include "movers/mail/live_hosts.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <csignal>

#include "base/text.h"
#include "movers/mail/postfix.h"
#include "sys/file.h"
#include "sys/net.h"
#include "sys/tls.h"

namespace midstream::mail::test {

namespace fs = std::filesystem;

namespace {

constexpr const char* kDovecot = R"(base_dir = {0}/run
state_dir = {0}/state
log_path = {0}/dovecot.log
protocols = imap pop3 lmtp sieve
listen = {1}
ssl = yes
ssl_cert = <{0}/cert.pem
ssl_key = <{0}/key.pem
auth_mechanisms = plain login
disable_plaintext_auth = no
mail_location = maildir:~/Maildir
mail_max_userip_connections = 50
first_valid_uid = 1
passdb {{
  driver = passwd-file
  args = {0}/users
}}
userdb {{
  driver = passwd-file
  args = {0}/users
  default_fields = uid=nobody gid=nogroup home={0}/vmail/%d/%n
}}
service lmtp {{
  inet_listener lmtp {{
    address = {1}
    port = 24
  }}
}}
plugin {{
  sieve = file:~/sieve;active=~/.dovecot.sieve
}}
protocol lmtp {{
  mail_plugins = $mail_plugins sieve
}})";

constexpr const char* kPostfix = R"(compatibility_level = 3.6
queue_directory = {0}/queue
data_directory = {0}/data
maillog_file_prefixes = /tmp
maillog_file = {0}/postfix.log
inet_interfaces = {1}
smtp_bind_address = {1}
inet_protocols = ipv4
myhostname = mx.example.test
mydestination =
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = example.test
virtual_transport = lmtp:[{1}]:24
relayhost = [127.0.0.9]:25
smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination
minimal_backoff_time = 2s
maximal_backoff_time = 4s
queue_run_delay = 2s
smtp_tls_security_level = none
)";

bool lo_up() {
  const Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  request.ifr_name[0] = 'l';
  request.ifr_name[1] = 'o';
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  return fd && ::ioctl(fd.get(), SIOCSIFFLAGS, &request) == 0;
}

bool run(const std::vector<std::string>& argv) {
  const auto exit = run_child(argv, "", Deadline::in(Millis(30'000)));
  if (!exit || exit->code != 0)
    fmt::print(stderr, "{} failed: {}\n", argv[0], exit ? exit->err + exit->out : exit.error().text());
  return exit && exit->code == 0;
}

void own(const fs::path& path, const char* user) {
  const auto* entry = ::getpwnam(user);
  if (entry == nullptr || ::chown(path.c_str(), entry->pw_uid, entry->pw_gid) != 0)
    fmt::print(stderr, "cannot chown {}\n", path.string());
}

void make_host(Host& host) {
  for (const auto* part : {"run", "state", "vmail", "postfix", "queue", "data"})
    fs::create_directories(host.root / part);
  own(host.root / "vmail", "nobody");
  own(host.root / "data", "postfix");
  std::string users;
  for (int i = 1; i <= kUsers; ++i) users += fmt::format("{}:{{PLAIN}}pw{}::::::\n", user_name(i), i);
  (void)write_file_durably(host.root / "users", users, 0644);
  (void)write_file_durably(host.root / "dovecot.conf", fmt::format(kDovecot, host.root.string(), host.address), 0644);
  (void)write_file_durably(host.root / "postfix/main.cf", fmt::format(kPostfix, host.root.string(), host.address),
                           0644);
  auto master = read_file("/usr/share/postfix/master.cf.dist").value_or("");
  // No chroot: name service and time zone of this process's own root are enough.
  std::string plain;
  for (const auto& line : split(master, '\n')) {
    auto words = split(line, ' ');
    std::erase_if(words, [](const std::string& word) { return word.empty(); });
    if (words.size() >= 8 && !line.starts_with("#") && !line.starts_with(" ")) words[4] = "n";
    plain += (line.starts_with("#") || line.starts_with(" ") ? line : join(words, " ")) + "\n";
  }
  (void)write_file_durably(host.root / "postfix/master.cf", plain, 0644);
}

}  // namespace

// A checkpoint ends the thread that runs a step, or serves one: where a mover's own threads would take the process along.
thread_local bool can_die = false;

std::string user_name(int number) { return fmt::format("user{:02}@example.test", number); }

// ---- lines

std::optional<Talk> Talk::to(const std::string& address, std::uint16_t port) {
  auto fd = connect_tcp(address, port, Deadline::in(Millis(5'000)));
  if (!fd) return std::nullopt;
  Talk talk;
  talk.fd_ = std::move(*fd);
  return talk;
}

bool Talk::say(const std::string& line) {
  const auto bytes = line + "\r\n";
  return ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

std::optional<std::string> Talk::hear() {
  while (true) {
    if (const auto at = buffer_.find("\r\n"); at != std::string::npos) {
      auto line = buffer_.substr(0, at);
      buffer_.erase(0, at + 2);
      return line;
    }
    if (!wait_fd(fd_.get(), POLLIN, Deadline::in(Millis(10'000)), {})) return std::nullopt;
    char bytes[4096];
    const ssize_t n = ::recv(fd_.get(), bytes, sizeof bytes, 0);
    if (n <= 0 && errno == EAGAIN) continue;
    if (n <= 0) return std::nullopt;
    buffer_.append(bytes, static_cast<std::size_t>(n));
  }
}

int Talk::answer() {
  while (auto line = hear()) {
    if (line->size() > 3 && (*line)[3] == '-') continue;
    return std::atoi(line->c_str());
  }
  return 0;
}

int Talk::code(const std::string& line) { return say(line) ? answer() : 0; }

std::string Talk::imap(const std::string& command, std::vector<std::string>* untagged) {
  const auto tag = fmt::format("t{} ", ++tag_);
  if (!say(tag + command)) return "";
  while (auto line = hear()) {
    if (line->starts_with(tag)) return line->substr(tag.size());
    if (untagged != nullptr) untagged->push_back(*line);
  }
  return "";
}

// ---- hosts

bool Host::start_dovecot() {
  auto child = Child::start({"setpriv", "--pdeathsig=KILL", "dovecot", "-F", "-c", (root / "dovecot.conf").string()});
  if (!child) return false;
  dovecot.emplace(std::move(*child));
  for (const auto deadline = Deadline::in(Millis(10'000)); !deadline.expired(); pause_for(Millis(20), {}))
    if (Talk::to(address, 24)) return true;
  return false;
}

void Host::kill_dovecot() {
  if (dovecot) dovecot->kill();
  dovecot.reset();
  for (const auto deadline = Deadline::in(Millis(5'000)); !deadline.expired() && Talk::to(address, 24);
       pause_for(Millis(20), {})) {
  }
}

bool Host::start_postfix() {
  auto child = Child::start({"setpriv", "--pdeathsig=KILL", "postfix", "-c", (root / "postfix").string(), "start-fg"});
  if (!child) return false;
  postfix.emplace(std::move(*child));
  for (const auto deadline = Deadline::in(Millis(10'000)); !deadline.expired(); pause_for(Millis(20), {}))
    if (Talk::to(address, 25)) return true;
  return false;
}

std::string Host::conf() const { return read_file(root / "dovecot.conf").value_or("?"); }
std::string Host::main_cf() const { return read_file(root / "postfix/main.cf").value_or("?"); }
std::string Host::log() const { return read_file(root / "dovecot.log", 1u << 30).value_or("?"); }

Result<Json> Joined::call(const std::string& host, std::string_view, std::string_view verb, const Json& args,
                          const Task& task, Deadline deadline, const std::stop_token& stop) {
  if (cut) return retry("the link is cut");
  auto& side = *hosts.at(host);
  return side.mover->peer(Context{task, host, side.state, *this, deadline, stop}, verb, args);
}

Result<std::unique_ptr<Stream>> Joined::open(const std::string& host, std::string_view, const Json& hello,
                                             const Task& task, Deadline, const std::stop_token&) {
  const std::lock_guard lock(mutex_);
  if (cut || ended_) return retry("the link is cut");
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return errno_failure("socketpair", errno);
  auto& side = *hosts.at(host);
  const int spare = ::dup(ends[1]);
  served_.emplace_back(std::jthread([this, &side, host, hello, task, end = ends[1]](const std::stop_token& stop) {
                         const auto stream = make_fd_stream(Fd(end));
                         can_die = true;
                         try {
                           (void)side.mover->serve(
                               Context{task, host, side.state, *this, Deadline::in(Millis(600'000)), stop}, *stream,
                               hello);
                         } catch (const Crash&) {  // this host's agent is dead: nothing more is said
                         }
                         stream->shut();
                       }),
                       spare);
  return make_fd_stream(Fd(ends[0]));
}

void Joined::begin() {
  const std::lock_guard lock(mutex_);
  ended_ = false;
}

// Nothing is opened from here on: a mover that is still ending would reach one that is gone.
void Joined::end() {
  std::vector<std::pair<std::jthread, int>> served;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    served.swap(served_);
  }
  for (auto& [thread, fd] : served) {
    thread.request_stop();
    ::shutdown(fd, SHUT_RDWR);
  }
  for (auto& [thread, fd] : served) {
    thread.join();
    ::close(fd);
  }
}

// ---- the rest of the world

Sink::Sink() : listener_(listen_tcp("127.0.0.9", 25).value_or(Fd())) {
  threads_.emplace_back([this](const std::stop_token& stop) {
    std::vector<std::jthread> sessions;
    while (auto fd = accept_one(listener_.get(), stop))
      sessions.emplace_back([this, fd = std::make_shared<Fd>(std::move(*fd))] { serve(std::move(*fd)); });
  });
}

void Sink::serve(Fd fd) {
  sockaddr_in from{};
  socklen_t size = sizeof from;
  ::getpeername(fd.get(), reinterpret_cast<sockaddr*>(&from), &size);
  char text[INET_ADDRSTRLEN] = "";
  ::inet_ntop(AF_INET, &from.sin_addr, text, sizeof text);
  std::string buffer;
  const auto line = [&]() -> std::optional<std::string> {
    while (buffer.find("\r\n") == std::string::npos) {
      char bytes[4096];
      if (!wait_fd(fd.get(), POLLIN, Deadline::in(Millis(5'000)), {})) return std::nullopt;
      const ssize_t n = ::recv(fd.get(), bytes, sizeof bytes, 0);
      if (n <= 0) return std::nullopt;
      buffer.append(bytes, static_cast<std::size_t>(n));
    }
    auto found = buffer.substr(0, buffer.find("\r\n"));
    buffer.erase(0, found.size() + 2);
    return found;
  };
  const auto say = [&](const std::string& what) {
    (void)::send(fd.get(), (what + "\r\n").data(), what.size() + 2, MSG_NOSIGNAL);
  };
  say("220 sink");
  bool data = false;
  std::string subject;
  while (auto said = line()) {
    if (data && *said != ".") {
      if (said->starts_with("Subject: ")) subject = said->substr(9);
    } else if (data) {
      data = false;
      const std::lock_guard lock(mutex_);
      subjects_.insert(subject);
      clients_.insert(text);
      say("250 taken");
    } else if (said->starts_with("DATA")) {
      data = true;
      say("354 go");
    } else if (said->starts_with("RCPT") && deferring) {
      say("450 later");
    } else if (said->starts_with("QUIT")) {
      say("221 bye");
      return;
    } else {
      say("250 ok");
    }
  }
}

std::multiset<std::string> Sink::subjects() const {
  const std::lock_guard lock(mutex_);
  return subjects_;
}
std::multiset<std::string> Sink::clients() const {
  const std::lock_guard lock(mutex_);
  return clients_;
}

// ---- the world

World& World::get() {
  static World world;
  return world;
}

World::World() {
  if (::geteuid() != 0 || !fs::exists("/usr/sbin/dovecot") || !fs::exists("/usr/sbin/postfix")) return;
  if (::unshare(CLONE_NEWNET) != 0 || !lo_up()) return;
  for (const auto* address : {"127.0.0.2/32", "127.0.0.3/32", "127.0.0.9/32"})
    if (!run({"ip", "address", "add", address, "dev", "lo"})) return;
  std::string name = "/tmp/midstream-mail-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) return;
  root_ = name;
  fs::permissions(root_, fs::perms(0755));
  old_.name = "alpha";
  new_.name = "beta";
  old_.address = "127.0.0.2";
  new_.address = "127.0.0.3";
  const auto identity = make_tls_identity("mx.example.test");
  for (auto* host : {&old_, &new_}) {
    host->root = root_ / host->name;
    host->state = host->root / "agent";
    make_host(*host);
    (void)write_file_durably(host->root / "cert.pem", identity->certificate_pem, 0644);
    (void)write_file_durably(host->root / "key.pem", identity->key_pem, 0600);
    host->options.dovecot_conf = host->root / "dovecot.conf";
    host->options.postfix_conf = host->root / "postfix";
    host->options.pipe = {fs::read_symlink("/proc/self/exe").string(), "pipe"};
  }
  old_conf_ = old_.conf();
  new_conf_ = new_.conf();
  joined_.hosts = {{"alpha", &old_}, {"beta", &new_}};
  usable_ = old_.start_dovecot() && new_.start_dovecot() && old_.start_postfix() && new_.start_postfix();
}

World::~World() {
  stop_agents();
  for (auto* host : {&old_, &new_}) {
    if (host->postfix) (void)run({"postfix", "-c", (host->root / "postfix").string(), "stop"});
    host->postfix.reset();
    host->kill_dovecot();
  }
  std::error_code ignored;
  if (!root_.empty() && std::getenv("MIDSTREAM_KEEP") == nullptr) fs::remove_all(root_, ignored);
}

void World::stop_agents() {
  for (auto* host : {&old_, &new_}) host->stop.request_stop();
  joined_.end();
  for (auto* host : {&old_, &new_}) host->mover.reset();
}

void World::fresh() {
  stop_agents();
  for (auto* host : {&old_, &new_}) {
    fs::remove_all(host->state);
    fs::create_directories(host->state);
    (void)write_file_durably(host->root / "dovecot.conf", host == &old_ ? old_conf_ : new_conf_, 0644);
    (void)write_file_durably(host->root / "postfix/main.cf", fmt::format(kPostfix, host->root.string(), host->address),
                             0644);
    (void)run({"doveadm", "-c", (host->root / "dovecot.conf").string(), "reload"});
    (void)Postfix(host->root / "postfix").reload({Deadline::in(Millis(10'000)), {}});
    fs::remove_all(host->root / "vmail/example.test");
  }
  for (auto* host : {&old_, &new_})
    for (const auto deadline = Deadline::in(Millis(5'000)); !deadline.expired() && !Talk::to(host->address, 24);
         pause_for(Millis(20), {})) {
    }
}

Context World::context(Host& host) {
  return Context{Task{"autumn", "step", epoch}, host.name, host.state, joined_, Deadline::in(Millis(60'000)),
                 host.stop.get_token()};
}

void World::crash_at(const std::string& point) {
  const std::lock_guard lock(mutex_);
  crash_point_ = point;
  crashed_ = false;
}

void World::restart_agents(Millis lease) {
  stop_agents();
  ++epoch;
  joined_.cut = false;
  for (auto* host : {&old_, &new_}) {
    host->options.lease = lease;
    host->options.checkpoint = [this](std::string_view point) {
      {
        const std::lock_guard lock(mutex_);
        if (!can_die || point != crash_point_) return;
        crash_point_.clear();
      }
      crashed_ = true;
      throw Crash{std::string(point)};
    };
    host->stop = std::stop_source();
    host->mover = make_mail_mover(host->options);
  }
  for (auto* host : {&old_, &new_}) {
    const auto started = host->mover->start(context(*host));
    if (!started) fmt::print(stderr, "start of {}: {}\n", host->name, started.error().text());
  }
  can_die = true;
  joined_.begin();
}

Json World::desired(const std::string& kind, const Json& more) const {
  Json desired{{"kind", kind},
               {"old", {{"host", "alpha"}, {"address", "127.0.0.2"}}},
               {"new", {{"host", "beta"}, {"address", "127.0.0.3"}}}};
  desired.update(more);
  return desired;
}

Result<Json> World::apply(const Json& desired, bool on_old) {
  auto& host = on_old ? old_ : new_;
  return host.mover->apply(context(host), desired);
}
Result<Json> World::undo(const Json& desired, bool on_old) {
  auto& host = on_old ? old_ : new_;
  return host.mover->undo(context(host), desired);
}
Result<Json> World::observe(const Json& desired, bool on_old) {
  auto& host = on_old ? old_ : new_;
  return host.mover->observe(context(host), desired);
}
std::string World::outlook(const Json& desired, bool on_old) {
  auto& host = on_old ? old_ : new_;
  const auto seen = host.mover->observe_undo(context(host), desired);
  if (!seen) return seen.error().text();
  return seen->value("possible", false) ? "" : seen->value("why", "no reason");
}

bool World::wait_reached(const Json& desired, bool on_old, Millis within) {
  for (const auto deadline = Deadline::in(within); !deadline.expired(); pause_for(Millis(50), {})) {
    const auto seen = observe(desired, on_old);
    if (seen && seen->value("reached", false)) return true;
    why = seen ? seen->dump() : seen.error().text();
  }
  return false;
}

// ---- clients

Clients::Clients(World& world) : world_(world) {
  for (int i = 1; i <= kUsers; ++i) ledgers_[user_name(i)];
  threads_.emplace_back([this](const std::stop_token& stop) { deliver(stop); });
  for (int i = 1; i <= kUsers; ++i) threads_.emplace_back([this, i](const std::stop_token& stop) { read(i, stop); });
}

void Clients::end() {
  for (auto& thread : threads_) thread.request_stop();
  threads_.clear();
}

void Clients::note(std::string what) {
  const std::lock_guard lock(mutex_);
  if (trouble_.size() < 20) trouble_.push_back(std::move(what));
}

std::string Clients::trouble() {
  const std::lock_guard lock(mutex_);
  return join(trouble_, "; ");
}

// LMTP to either host in turn: a message that was answered 250 is there once, one that was answered 4xx is not.
void Clients::deliver(const std::stop_token& stop) {
  for (int number = 0; !stop.stop_requested(); ++number) {
    auto& host = !both || number % 2 == 0 ? world_.old_host() : world_.new_host();
    const auto user = user_name(number % kUsers + 1);
    const auto subject = fmt::format("m{}", number);
    pause_for(Millis(15), stop);
    busy = false;
    if (resting) continue;
    busy = true;
    if (resting) {
      busy = false;
      continue;
    }
    auto talk = Talk::to(host.address, 24);
    if (!talk || talk->greeting() != 220 || talk->code("LHLO test") != 250 || talk->code("MAIL FROM:<a@b.test>") != 250)
      continue;
    const int taken = talk->code(fmt::format("RCPT TO:<{}>", user));
    if (taken >= 500) note(fmt::format("RCPT at {}: {}", host.name, taken));
    if (taken != 250 || talk->code("DATA") != 354) continue;
    const int code = talk->code(fmt::format("Subject: {}\r\n\r\nbody of {}\r\n.", subject, subject));
    if (code >= 500) note(fmt::format("DATA at {}: {}", host.name, code));
    const std::lock_guard lock(mutex_);
    if (code == 250) ledgers_[user].delivered.insert(subject);
    if (code == 0) ledgers_[user].unknown.insert(subject);
    deliveries_ += code == 250;
  }
}

namespace {

// "* 3 FETCH (UID 7 ... Subject: m12 ...": the number after `word`, the subject.
std::string after(const std::string& text, const std::string& word) {
  const auto at = text.find(word);
  if (at == std::string::npos) return "";
  const auto from = at + word.size();
  return text.substr(from, text.find_first_of(" )]\r\"", from) - from);
}

struct Seen {
  std::string uid;
  bool flagged = false;
};

// Subject to what INBOX has of it; a subject that is there twice is in `twice`.
std::map<std::string, Seen> look(Talk& imap, std::string* validity, std::string* twice) {
  std::map<std::string, Seen> seen;
  std::vector<std::string> lines;
  if (!imap.imap("SELECT INBOX", &lines).starts_with("OK")) return seen;
  for (const auto& line : lines)
    if (line.find("UIDVALIDITY ") != std::string::npos) *validity = after(line, "UIDVALIDITY ");
  lines.clear();
  if (!imap.imap("UID FETCH 1:* (UID FLAGS ENVELOPE)", &lines).starts_with("OK")) *validity = "";
  for (const auto& line : lines) {
    const auto uid = after(line, "UID ");
    const auto subject = after(line, "NIL \"m").empty() ? after(line, "\"m") : after(line, "NIL \"m");
    if (uid.empty() || subject.empty()) continue;
    if (seen.contains("m" + subject)) *twice += " m" + subject;
    seen["m" + subject] = {uid, line.find("kept") != std::string::npos};
  }
  return seen;
}

}  // namespace

// One round of a reader: everything seen keeps its UID, and one more message gets a flag.
bool Clients::work(int number, Talk& imap) {
  const auto user = user_name(number);
  std::string validity;
  std::string twice;
  const auto seen = look(imap, &validity, &twice);
  if (validity.empty()) return false;
  std::string to_flag;
  {
    const std::lock_guard lock(mutex_);
    auto& ledger = ledgers_[user];
    if (ledger.validity.empty()) ledger.validity = validity;
    if (ledger.validity != validity)
      trouble_.push_back(fmt::format("UIDVALIDITY of {} was {}, is {}", user, ledger.validity, validity));
    if (!twice.empty()) trouble_.push_back(fmt::format("twice in {}:{}", user, twice));
    for (const auto& [subject, message] : seen) {
      const auto [known, first] = ledger.uid.try_emplace(subject, message.uid);
      if (known->second != message.uid)
        trouble_.push_back(fmt::format("{} of {} had UID {}, has {}", subject, user, known->second, message.uid));
      if (!message.flagged && ledger.flagged.contains(subject))
        trouble_.push_back(fmt::format("the flag of {} of {} is lost", subject, user));
      if (!message.flagged) to_flag = subject;
    }
    for (const auto& [subject, uid] : ledger.uid)
      if (!seen.contains(subject)) trouble_.push_back(fmt::format("{} of {} is gone", subject, user));
  }
  if (to_flag.empty()) return true;
  const auto answer = imap.imap(fmt::format("UID STORE {} +FLAGS.SILENT (\\Seen kept)", seen.at(to_flag).uid));
  if (!answer.starts_with("OK")) return false;
  const std::lock_guard lock(mutex_);
  ledgers_[user].flagged.insert(to_flag);
  ++flags_;
  return true;
}

void Clients::read(int number, const std::stop_token& stop) {
  std::optional<Talk> imap;
  auto worked = boot_now();
  for (int round = number; !stop.stop_requested(); ++round) {
    auto& host = !both || round % 2 == 0 ? world_.old_host() : world_.new_host();
    if (!imap) {
      imap = Talk::to(host.address, 143);
      if (!imap || !imap->hear()) imap.reset();
      if (!imap) continue;
      const auto answer = imap->imap(fmt::format("LOGIN {} pw{}", user_name(number), number));
      if (answer.find("AUTHENTICATIONFAILED") != std::string::npos)
        note(fmt::format("LOGIN at {}: {}", host.name, answer));
      if (!answer.starts_with("OK")) {
        imap.reset();
        pause_for(Millis(50), stop);
        continue;
      }
    }
    if (!work(number, *imap)) {
      imap.reset();
      continue;
    }
    const auto pause = std::chrono::duration_cast<Millis>(boot_now() - worked).count();
    worked = boot_now();
    if (pause > longest_ms_) longest_ms_ = pause;
    // Some sessions live long, some are short.
    if (round % 7 == 0) imap.reset();
    pause_for(Millis(30), stop);
  }
}

bool Clients::wait_more(int deliveries, int flags, Millis within) {
  const int d = deliveries_ + deliveries;
  const int f = flags_ + flags;
  for (const auto deadline = Deadline::in(within); !deadline.expired(); pause_for(Millis(20), {}))
    if (deliveries_ >= d && flags_ >= f) return true;
  return false;
}

std::string Clients::audit(const std::string& address) {
  std::string wrong;
  const std::lock_guard lock(mutex_);
  for (int i = 1; i <= kUsers; ++i) {
    const auto& ledger = ledgers_[user_name(i)];
    auto imap = Talk::to(address, 143);
    if (!imap || !imap->hear() || !imap->imap(fmt::format("LOGIN {} pw{}", user_name(i), i)).starts_with("OK")) {
      wrong += fmt::format("{} cannot log in at {}; ", user_name(i), address);
      continue;
    }
    std::string validity;
    std::string twice;
    const auto seen = look(*imap, &validity, &twice);
    if (!twice.empty()) wrong += fmt::format("{} has twice:{}; ", user_name(i), twice);
    if (!ledger.validity.empty() && validity != ledger.validity)
      wrong += fmt::format("UIDVALIDITY of {} changed; ", user_name(i));
    for (const auto& subject : ledger.delivered)
      if (!seen.contains(subject)) wrong += fmt::format("{} of {} is lost; ", subject, user_name(i));
    for (const auto& [subject, message] : seen) {
      if (!ledger.delivered.contains(subject) && !ledger.unknown.contains(subject))
        wrong += fmt::format("{} of {} was never acknowledged; ", subject, user_name(i));
      const auto known = ledger.uid.find(subject);
      if (known != ledger.uid.end() && known->second != message.uid)
        wrong += fmt::format("{} of {} has another UID; ", subject, user_name(i));
      if (ledger.flagged.contains(subject) && !message.flagged)
        wrong += fmt::format("the flag of {} of {} is lost; ", subject, user_name(i));
    }
  }
  return wrong;
}

}  // namespace midstream::mail::test
