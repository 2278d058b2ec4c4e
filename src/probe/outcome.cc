#include "probe/outcome.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <resolv.h>
#include <sys/socket.h>

#include <cerrno>

#include "sys/stream.h"

namespace midstream {

namespace {

constexpr auto kAnswerHolds = std::chrono::seconds(1);

bool is_numeric(const std::string& host) {
  unsigned char bytes[16];
  return ::inet_pton(AF_INET, host.c_str(), bytes) == 1 || ::inet_pton(AF_INET6, host.c_str(), bytes) == 1;
}

Result<std::vector<std::string>> ask(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (failed != 0) return retry(fmt::format("cannot resolve {}: {}", host, ::gai_strerror(failed)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  std::vector<std::string> addresses;
  for (const auto* one = found; one != nullptr; one = one->ai_next) {
    char text[NI_MAXHOST];
    if (::getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0) addresses.emplace_back(text);
  }
  return addresses;
}

}  // namespace

struct Resolver::Entry {
  std::string host;
  std::mutex mutex;
  std::condition_variable_any changed;
  bool wanted = false;
  std::uint64_t answers = 0;  // how often `answer` has been set
  Nanos answered{0};
  Result<std::vector<std::string>> answer;
  std::jthread thread;  // last: it uses all of the above

  void run(const std::stop_token& stop) {
    // Two tries of a second each, for this thread only, rather than glibc's ten seconds.
    ::res_init();
    _res.retrans = 1;
    _res.retry = 2;
    std::unique_lock lock(mutex);
    while (changed.wait(lock, stop, [this] { return wanted; })) {
      wanted = false;
      lock.unlock();
      auto fresh = ask(host);
      lock.lock();
      answer = std::move(fresh);
      answered = boot_now();
      ++answers;
      changed.notify_all();
    }
  }
};

Resolver::Resolver() = default;

Resolver::~Resolver() {
  for (auto& [host, one] : entries_) one->thread.request_stop();
}

Resolver::Entry& Resolver::entry(const std::string& host) {
  const std::lock_guard lock(mutex_);
  auto& one = entries_[host];
  if (!one) {
    one = std::make_unique<Entry>();
    one->host = host;
    one->thread = std::jthread([entry = one.get()](const std::stop_token& stop) { entry->run(stop); });
  }
  return *one;
}

Result<std::vector<std::string>> Resolver::lookup(const std::string& host, Deadline deadline, const std::stop_token& stop) {
  if (is_numeric(host)) return std::vector<std::string>{host};
  auto& one = entry(host);
  std::unique_lock lock(one.mutex);
  const bool fresh = one.answers > 0 && one.answer && boot_now() - one.answered < kAnswerHolds;
  if (fresh) return one.answer;
  const auto before = one.answers;
  one.wanted = true;
  one.changed.notify_all();
  one.changed.wait_for(lock, stop, deadline.remaining(), [&] { return one.answers > before; });
  if (one.answers > before) return one.answer;
  return retry(fmt::format("no answer about {} in time", host));
}

std::string errno_class(int code) {
  switch (code) {
    case ECONNREFUSED: return "refused";
    case ECONNRESET:
    case EPIPE: return "reset";
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN: return "unreachable";
    case ETIMEDOUT: return "timeout";
    default: return fmt::format("errno-{}", code);
  }
}

Finding failed_finding(std::string_view error, Deadline deadline) {
  if (deadline.expired()) return {ProbeOutcome::timeout, "timeout", ""};
  return {ProbeOutcome::failed, std::string(error), ""};
}

namespace {

std::expected<Fd, int> connect_one(const std::string& address, std::uint16_t port, Deadline deadline, const std::stop_token& stop) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return std::unexpected(EINVAL);
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  Fd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return std::unexpected(errno);
  if (::connect(fd.get(), found->ai_addr, found->ai_addrlen) == 0) return fd;
  if (errno != EINPROGRESS) return std::unexpected(errno);
  if (!wait_fd(fd.get(), POLLOUT, deadline, stop)) return std::unexpected(ETIMEDOUT);
  int failed = 0;
  socklen_t size = sizeof failed;
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &failed, &size);
  if (failed != 0) return std::unexpected(failed);
  return fd;
}

class TcpProber final : public Prober {
 public:
  TcpProber(TcpTarget target, Resolver& resolver) : target_(std::move(target)), resolver_(resolver) {}

  Finding probe(Deadline deadline, const std::stop_token& stop) override {
    const auto addresses = resolver_.lookup(target_.host, deadline, stop);
    if (!addresses) return failed_finding("dns", deadline);
    const auto fd = connect_any(*addresses, target_.port, deadline, stop);
    if (!fd) return fd.error();
    return {ProbeOutcome::ok, "", ""};
  }

 private:
  TcpTarget target_;
  Resolver& resolver_;
};

}  // namespace

std::expected<Fd, Finding> connect_any(const std::vector<std::string>& addresses, std::uint16_t port, Deadline deadline,
                                       const std::stop_token& stop) {
  int failed = EHOSTUNREACH;
  for (std::size_t i = 0; i < addresses.size() && !deadline.expired(); ++i) {
    const auto share = deadline.remaining() / static_cast<int>(addresses.size() - i);
    auto fd = connect_one(addresses[i], port, deadline.sooner(share), stop);
    if (fd) return std::move(*fd);
    failed = fd.error();
  }
  return std::unexpected(failed_finding(errno_class(failed), deadline));
}

std::unique_ptr<Prober> make_tcp_prober(const TcpTarget& target, Resolver& resolver) {
  return std::make_unique<TcpProber>(target, resolver);
}

}  // namespace midstream
