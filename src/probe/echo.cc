#include "probe/echo.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <optional>

#include "probe/outcome.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

namespace {

constexpr Nanos kRowAtMost = std::chrono::seconds(1);
constexpr Nanos kStopGrain = std::chrono::milliseconds(50);

// What travels in each packet behind the ICMP header; the kernel and the network leave it alone.
struct Payload {
  std::uint64_t magic;  // of this process
  std::uint32_t target;
  std::uint32_t zero;
  std::int64_t slot;
};

// The headers of both protocols have this form: type, code, checksum, identifier, sequence.
struct Packet {
  std::uint8_t type;
  std::uint8_t code;
  std::uint16_t checksum;
  std::uint16_t id;
  std::uint16_t seq;
  Payload payload;
};
static_assert(sizeof(Packet) == 32);

// RFC 1071; IPv6's is the kernel's business.
std::uint16_t internet_checksum(const Packet& packet) {
  std::uint16_t words[sizeof(Packet) / 2];
  std::memcpy(words, &packet, sizeof packet);
  std::uint32_t sum = 0;
  for (const auto word : words) sum += word;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

// Gathers the probes of one address into rows.
class Rows {
 public:
  Rows(int target, const RunSink& sink) : target_(target), sink_(sink) {}

  void add(std::int64_t seq, Nanos start, std::chrono::microseconds latency, ProbeOutcome outcome, const std::string& error) {
    const bool same = row_ && row_->outcome == outcome && row_->error == error && row_->last_seq + 1 == seq;
    if (row_ && (!same || start - row_->first_start >= kRowAtMost)) flush();
    if (!row_) {
      row_ = RunLine{.target = target_, .first_seq = seq, .first_start = start, .first_latency = latency,
                     .worst_latency = latency, .outcome = outcome, .error = error, .host = "-"};
    }
    row_->last_seq = seq;
    row_->last_start = start;
    row_->worst_latency = std::max(row_->worst_latency, latency);
  }
  void flush() {
    if (row_) was_up_ = is_up(row_->outcome);
    if (row_) sink_(*row_);
    row_.reset();
  }
  // A failure is told at once, and so is its end; a row of successes may wait.
  void tell(Nanos now) {
    const bool news = row_ && (!is_up(row_->outcome) || !was_up_);
    if (row_ && (news || now - row_->first_start >= kRowAtMost)) flush();
  }

 private:
  int target_;
  const RunSink& sink_;
  std::optional<RunLine> row_;
  bool was_up_ = true;  // the last row that was told
};

struct Flight {
  std::int64_t slot = 0;
  Nanos start{0};
  std::optional<Nanos> ended;
  std::string error;  // "" once ended: answered
};

struct EchoTarget {
  sockaddr_storage address{};
  socklen_t address_size = 0;
  bool v6 = false;
  Nanos every{0};
  Nanos timeout{0};
  std::int64_t first_seq = 0;
  Nanos base{0};               // when slot 0 is due
  std::int64_t next_slot = 0;
  std::deque<Flight> flights;  // in the order of their slots

  Nanos due() const { return base + next_slot * every; }
};

class RawEcho final : public EchoProbe {
 public:
  Result<> init(const std::vector<AddressProbe>& addresses, const std::vector<std::int64_t>& first_seq);
  Result<> run(const RunSink& sink, const std::stop_token& stop) override;

 private:
  Result<> open_sockets();
  void send(std::uint32_t index, Nanos now);
  Result<> receive(const Fd& socket, bool v6);
  void take(const Packet& packet, const sockaddr_storage& from, bool v6, Nanos now);
  void settle(EchoTarget& target, Rows& rows, Nanos now);
  Nanos next_event(Nanos now) const;

  Fd v4_;
  Fd v6_;
  std::uint64_t magic_ = 0;
  std::uint16_t id_ = 0;
  std::vector<EchoTarget> targets_;
};

Result<> RawEcho::init(const std::vector<AddressProbe>& addresses, const std::vector<std::int64_t>& first_seq) {
  std::uint64_t random[2] = {};
  if (::getrandom(random, sizeof random, 0) != sizeof random) return errno_failure("cannot get random numbers", errno);
  magic_ = random[0];
  id_ = static_cast<std::uint16_t>(random[1]);
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    EchoTarget target{.every = addresses[i].every, .timeout = addresses[i].timeout, .first_seq = first_seq[i]};
    auto* in4 = reinterpret_cast<sockaddr_in*>(&target.address);
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&target.address);
    if (::inet_pton(AF_INET, addresses[i].address.c_str(), &in4->sin_addr) == 1) {
      in4->sin_family = AF_INET;
      target.address_size = sizeof *in4;
    } else if (::inet_pton(AF_INET6, addresses[i].address.c_str(), &in6->sin6_addr) == 1) {
      in6->sin6_family = AF_INET6;
      target.address_size = sizeof *in6;
      target.v6 = true;
    } else {
      return refused(fmt::format("probe configuration: '{}' is no numeric address", addresses[i].address));
    }
    targets_.push_back(std::move(target));
  }
  return open_sockets();
}

Result<> RawEcho::open_sockets() {
  const auto open = [](int family, int protocol) -> Result<Fd> {
    Fd fd(::socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
    if (!fd && errno == EPERM) {
      return refused("this process may not send ICMP echoes, which probes of addresses are", "run the probe as root, or give it CAP_NET_RAW");
    }
    if (!fd) return errno_failure("cannot open a raw socket", errno);
    const int size = 1 << 20;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    return fd;
  };
  if (std::ranges::any_of(targets_, [](const EchoTarget& t) { return !t.v6; })) {
    v4_ = TRY(open(AF_INET, IPPROTO_ICMP));
    const std::uint32_t all_but_replies = ~(1u << ICMP_ECHOREPLY);
    ::setsockopt(v4_.get(), SOL_RAW, 1 /* ICMP_FILTER, linux/icmp.h */, &all_but_replies, sizeof all_but_replies);
  }
  if (std::ranges::any_of(targets_, &EchoTarget::v6)) {
    v6_ = TRY(open(AF_INET6, IPPROTO_ICMPV6));
    icmp6_filter filter{};
    ICMP6_FILTER_SETBLOCKALL(&filter);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
    ::setsockopt(v6_.get(), IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter);
  }
  return {};
}

void RawEcho::send(std::uint32_t index, Nanos now) {
  auto& target = targets_[index];
  // What this host is more than an interval late with is left out rather than claimed.
  const auto late = (now - target.due()) / target.every;
  if (late > 0) target.next_slot += late;
  const auto slot = target.next_slot++;
  Packet packet{};
  packet.type = target.v6 ? std::uint8_t{ICMP6_ECHO_REQUEST} : std::uint8_t{ICMP_ECHO};
  packet.id = id_;
  packet.seq = htons(static_cast<std::uint16_t>(slot));
  packet.payload = {magic_, index, 0, slot};
  if (!target.v6) packet.checksum = internet_checksum(packet);
  Flight flight{.slot = slot, .start = boot_now()};
  const auto sent = ::sendto((target.v6 ? v6_ : v4_).get(), &packet, sizeof packet, MSG_DONTWAIT,
                             reinterpret_cast<const sockaddr*>(&target.address), target.address_size);
  if (sent < 0 && errno != EAGAIN && errno != ENOBUFS) {
    flight.ended = boot_now();
    flight.error = errno_class(errno);
  } else if (sent < 0) {
    return;  // our own queue is full: no probe was made
  }
  target.flights.push_back(std::move(flight));
}

bool same_address(const sockaddr_storage& a, const sockaddr_storage& b, bool v6) {
  if (v6) {
    return std::memcmp(&reinterpret_cast<const sockaddr_in6&>(a).sin6_addr, &reinterpret_cast<const sockaddr_in6&>(b).sin6_addr, 16) == 0;
  }
  return reinterpret_cast<const sockaddr_in&>(a).sin_addr.s_addr == reinterpret_cast<const sockaddr_in&>(b).sin_addr.s_addr;
}

void RawEcho::take(const Packet& packet, const sockaddr_storage& from, bool v6, Nanos now) {
  const auto type = v6 ? std::uint8_t{ICMP6_ECHO_REPLY} : std::uint8_t{ICMP_ECHOREPLY};
  if (packet.type != type || packet.payload.magic != magic_ || packet.payload.target >= targets_.size()) return;
  auto& target = targets_[packet.payload.target];
  if (target.v6 != v6 || !same_address(from, target.address, v6)) return;
  for (auto& flight : target.flights) {
    if (flight.slot == packet.payload.slot && !flight.ended) flight.ended = now;
  }
}

Result<> RawEcho::receive(const Fd& socket, bool v6) {
  while (true) {
    char bytes[512];
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    const auto got = ::recvfrom(socket.get(), bytes, sizeof bytes, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &size);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return {};
    if (got < 0) return errno_failure("cannot receive ICMP echoes", errno);
    // IPv4's header comes along, IPv6's does not.
    const auto head = v6 ? 0u : (static_cast<unsigned char>(bytes[0]) & 0x0fu) * 4u;
    if (static_cast<std::size_t>(got) < head + sizeof(Packet)) continue;
    Packet packet{};
    std::memcpy(&packet, bytes + head, sizeof packet);
    take(packet, from, v6, boot_now());
  }
}

// Tells what has been decided, in the order of the probes.
void RawEcho::settle(EchoTarget& target, Rows& rows, Nanos now) {
  while (!target.flights.empty()) {
    const auto& flight = target.flights.front();
    const bool overdue = now - flight.start >= target.timeout;
    if (!flight.ended && !overdue) break;
    const auto took = flight.ended ? *flight.ended - flight.start : now - flight.start;
    const auto latency = std::chrono::duration_cast<std::chrono::microseconds>(took);
    const auto seq = target.first_seq + flight.slot;
    if (!flight.ended || (flight.error.empty() && took > target.timeout)) {
      rows.add(seq, flight.start, latency, ProbeOutcome::timeout, "timeout");
    } else {
      rows.add(seq, flight.start, latency, flight.error.empty() ? ProbeOutcome::ok : ProbeOutcome::failed, flight.error.empty() ? "-" : flight.error);
    }
    target.flights.pop_front();
  }
  rows.tell(now);
}

Nanos RawEcho::next_event(Nanos now) const {
  auto next = now + kStopGrain;
  for (const auto& target : targets_) {
    next = std::min(next, target.due());
    if (!target.flights.empty() && !target.flights.front().ended) next = std::min(next, target.flights.front().start + target.timeout);
  }
  return std::max(next, now);
}

Result<> RawEcho::run(const RunSink& sink, const std::stop_token& stop) {
  std::vector<Rows> rows;
  const auto begin = boot_now();
  const auto count = static_cast<std::int64_t>(targets_.size());
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    rows.emplace_back(static_cast<int>(i), sink);
    // Spread over the interval, so that the packets do not come in bursts.
    targets_[i].base = begin + targets_[i].every * static_cast<std::int64_t>(i) / count;
  }
  while (!stop.stop_requested()) {
    const auto wait = next_event(boot_now()) - boot_now();
    const auto positive = std::max(Nanos(0), wait);
    const timespec span{.tv_sec = positive.count() / 1'000'000'000, .tv_nsec = positive.count() % 1'000'000'000};
    pollfd fds[2] = {{v4_.get(), POLLIN, 0}, {v6_.get(), POLLIN, 0}};
    if (::ppoll(fds, 2, &span, nullptr) < 0 && errno != EINTR) return errno_failure("cannot wait for ICMP echoes", errno);
    if (v4_) CHECK_OK(receive(v4_, false));
    if (v6_) CHECK_OK(receive(v6_, true));
    for (std::uint32_t i = 0; i < targets_.size(); ++i) {
      const auto now = boot_now();
      settle(targets_[i], rows[i], now);
      if (targets_[i].due() <= now) send(i, now);
    }
  }
  for (auto& row : rows) row.flush();
  return {};
}

}  // namespace

Result<std::unique_ptr<EchoProbe>> EchoProbe::open(const std::vector<AddressProbe>& addresses,
                                                   const std::vector<std::int64_t>& first_seq) {
  auto echo = std::make_unique<RawEcho>();
  CHECK_OK(echo->init(addresses, first_seq));
  return echo;
}

}  // namespace midstream
