#include "gate/worker.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <netinet/tcp.h>

#include "sys/clock.h"
#include "sys/log.h"
#include "sys/sockets.h"

namespace midstream::gate {

namespace {

// Tokens of epoll: sessions have twice their number, and one more for their sockets at servers.
constexpr std::uint64_t kListener = 0;
constexpr std::uint64_t kWake = 1;
constexpr std::uint64_t kLookup = 2;  // and as many as there are servers: two at most
constexpr int kSweepMs = 1'000;

std::string peer_text(const sockaddr_storage& peer) {
  if (peer.ss_family == AF_INET)
    return address_text(reinterpret_cast<const unsigned char*>(&reinterpret_cast<const sockaddr_in&>(peer).sin_addr), false);
  return address_text(reinterpret_cast<const unsigned char*>(&reinterpret_cast<const sockaddr_in6&>(peer).sin6_addr), true);
}

}  // namespace

Worker::Worker(Shared& shared, int listener, std::atomic<std::uint64_t>& next_id)
    : shared_(shared), listener_(listener), next_id_(next_id) {
  for (std::size_t i = 0; i < shared.servers.size(); ++i)
    lookups_.push_back(std::make_unique<Lookup>(shared.config, shared.servers[i], [this, i](int fd) {
      ++tally_.of(i, Purpose::lookup);
      return watch(fd, kLookup + i);
    }));
}

Result<std::unique_ptr<Worker>> Worker::start(Shared& shared, int listener, std::atomic<std::uint64_t>& next_id) {
  std::unique_ptr<Worker> worker(new Worker(shared, listener, next_id));
  CHECK_OK(worker->prepare());
  worker->thread_ = std::jthread([self = worker.get()](const std::stop_token& stop) { self->run(stop); });
  return worker;
}

Result<> Worker::prepare() {
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event wakes{.events = EPOLLIN, .data = {.u64 = kWake}};
  if (!epoll_ || !wake_ || !listen() ||
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &wakes) != 0)
    return errno_failure("cannot prepare the gate's event loop", errno);
  return {};
}

Worker::~Worker() {
  thread_.request_stop();
  wake();
}

void Worker::wake() const {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

// Edge-triggered, both ways: a session goes on as far as it can whenever anything changed, and asks for nothing.
bool Worker::watch(int fd, std::uint64_t token) const {
  epoll_event event{.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data = {.u64 = token}};
  return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

bool Worker::listen() {
  epoll_event listens{.events = EPOLLIN | EPOLLEXCLUSIVE, .data = {.u64 = kListener}};
  return listening_ = ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, listener_, &listens) == 0;
}

// Out of descriptors or memory: whoever waits to be accepted waits until the next sweep, instead of keeping the loop busy.
void Worker::stop_listening(int why) {
  log_warn("gate", "cannot accept: {}; tried again in a second", std::strerror(why));
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_, nullptr);
  listening_ = false;
}

void Worker::accept_all() {
  // A few at a time: the other workers take their share.
  for (int i = 0; i < 8; ++i) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    Fd client(::accept4(listener_, reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client) {
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) stop_listening(errno);
      return;
    }
    const int on = 1;
    ::setsockopt(client.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(client.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    ++tally_.accepted;
    const auto id = next_id_.fetch_add(1);
    const int fd = client.get();
    Session::Needs needs{[this, id](int server) { return watch(server, 2 * id + 1); },
                         [this, id](const std::string& user, std::size_t server) {
                           lookups_[server]->ask(user, [this, id](const Lookup::Answer& answer) {
                             const auto it = sessions_.find(id);
                             if (it == sessions_.end()) return;
                             if (answer.failed.empty()) it->second->verifier_is(answer.found);
                             else it->second->verifier_failed(answer.failed);
                             again_.push_back(id);
                           });
                         },
                         [this, id](const std::string& database) { begun(id, database); }, tally_};
    sessions_.emplace(id, std::make_unique<Session>(id, std::move(client), peer_text(peer), shared_, std::move(needs)));
    if (hold_until_.count() != 0) sessions_.at(id)->hold(true);
    if (!watch(fd, 2 * id)) sessions_.erase(id);
  }
}

void Worker::turn(std::uint64_t id) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  switch (it->second->turn()) {
    case Session::Turn::waiting: break;
    case Session::Turn::again: again_.push_back(id); break;
    case Session::Turn::over: sessions_.erase(it); break;
  }
}

void Worker::ready(const epoll_event& event) {
  const auto token = event.data.u64;
  if (token == kListener) return accept_all();
  if (token == kWake) return answer_asked();
  if (token < kLookup + lookups_.size()) return lookups_[token - kLookup]->turn();
  const auto it = sessions_.find(token / 2);
  if (it == sessions_.end()) return;
  constexpr std::uint32_t kEnded = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
  if ((event.events & (EPOLLIN | kEnded)) != 0) it->second->event(token % 2 == 0, (event.events & kEnded) != 0);
  turn(it->first);
}

// Ends who has not logged in in time.
void Worker::sweep() {
  if (!listening_ && !refusing_) listen();
  const auto now = boot_now();
  std::vector<std::uint64_t> late;
  for (const auto& [id, session] : sessions_) {
    const auto deadline = session->login_deadline();
    if (deadline.count() != 0 && now > deadline) late.push_back(id);
  }
  for (const auto id : late) {
    sessions_.at(id)->late();
    sessions_.erase(id);
  }
}

void Worker::answer_asked() {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
  std::vector<std::function<void()>> asked;
  {
    const std::lock_guard lock(asked_mutex_);
    asked.swap(asked_);
  }
  for (const auto& one : asked) one();
}

Json Worker::sessions() {
  return in_loop([this] {
    auto list = Json::array();
    for (const auto& [id, session] : sessions_) list.push_back(session->describe());
    return list;
  });
}

Totals Worker::totals() {
  return in_loop([this] {
    Totals totals{.tally = tally_};
    for (const auto& [id, session] : sessions_) session->add_to(totals);
    return totals;
  });
}

void Worker::run(const std::stop_token& stop) {
  std::array<epoll_event, 256> events;
  auto next_sweep = boot_now() + Millis(kSweepMs);
  while (!stop.stop_requested()) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), wait_ms());
    // Before anything goes on: after a stall of this process the hold may be over.
    release_if_due();
    for (int i = 0; i < count; ++i) ready(events[static_cast<std::size_t>(i)]);
    for (const auto id : std::exchange(again_, {})) turn(id);
    connect_some();
    refresh_some();
    leave_some();
    if (boot_now() < next_sweep) continue;
    sweep();
    next_sweep = boot_now() + Millis(kSweepMs);
  }
  for (const auto& [id, session] : sessions_) {
    session->end({"57P01", "terminating connection due to administrator command", ""}, Ending::stopped);
    session->turn();
  }
  sessions_.clear();
  answer_asked();
}

}  // namespace midstream::gate
