#include "movers/end/ears.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <tuple>

#include "base/text.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

constexpr Millis kLook{250};

std::int64_t now_ms() { return std::chrono::duration_cast<Millis>(boot_now()).count(); }

// What /proc says; its files have no size.
std::string kernel_text(const fs::path& path) {
  std::ostringstream text;
  std::ifstream in(path, std::ios::binary);
  text << in.rdbuf();
  return text.str();
}

// The ports from which the kernel gives one to a client that names none begin here.
std::uint32_t first_client_port() {
  unsigned first = 32'768;
  if (std::sscanf(kernel_text("/proc/sys/net/ipv4/ip_local_port_range").c_str(), "%u", &first) != 1) return 32'768;
  return first;
}

// A socket that gives the IP packets to this host that begin a TCP connection, or are UDP to a port below those of
// clients. IPv6 extension headers are not looked behind.
Result<Fd> open_ear(bool v6) {
  // Protocol 0: nothing comes before the filter is there.
  Fd fd(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_failure("cannot listen for packets", errno);
  const std::uint32_t kind = SKF_AD_OFF + SKF_AD_PKTTYPE;
  const std::uint32_t clients = first_client_port();
  sock_filter four[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kind),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_HOST, 0, 10),
      BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0),  // length of the header
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 4, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 6),
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, 13),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 2, 3),  // SYN without ACK
      BPF_STMT(BPF_LD | BPF_H | BPF_IND, 2),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, clients, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, 128),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  sock_filter six[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kind),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_HOST, 0, 9),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 4, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 6),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 53),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 2, 3),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 42),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, clients, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, 128),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  const sock_fprog program{static_cast<unsigned short>(v6 ? std::size(six) : std::size(four)), v6 ? six : four};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
    return errno_failure("cannot filter packets", errno);
  sockaddr_ll any{};
  any.sll_family = AF_PACKET;
  any.sll_protocol = htons(v6 ? ETH_P_IPV6 : ETH_P_IP);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) != 0)
    return errno_failure("cannot listen for packets", errno);
  return fd;
}

// Numeric, of every device.
std::set<std::string> own_addresses() {
  std::set<std::string> addresses;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return addresses;
  for (const auto* one = list; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr) continue;
    const bool v6 = one->ifa_addr->sa_family == AF_INET6;
    if (!v6 && one->ifa_addr->sa_family != AF_INET) continue;
    char text[INET6_ADDRSTRLEN];
    const void* bytes = v6 ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6*>(one->ifa_addr)->sin6_addr)
                           : &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr;
    if (::inet_ntop(v6 ? AF_INET6 : AF_INET, bytes, text, sizeof text) != nullptr) addresses.insert(text);
  }
  ::freeifaddrs(list);
  return addresses;
}

// inode -> pid, of every socket that a process of this host holds.
std::map<std::uint64_t, int> socket_holders() {
  std::map<std::uint64_t, int> holders;
  std::error_code ignored;
  for (const auto& process : fs::directory_iterator("/proc", ignored)) {
    const int pid = std::atoi(process.path().filename().c_str());
    if (pid <= 0) continue;
    std::error_code gone;
    for (fs::directory_iterator at(process.path() / "fd", gone), end; !gone && at != end; at.increment(gone)) {
      std::error_code closed;
      const auto target = fs::read_symlink(at->path(), closed).string();
      if (target.starts_with("socket:[")) holders.emplace(std::strtoull(target.c_str() + 8, nullptr, 10), pid);
    }
  }
  return holders;
}

// Where the ssh sessions come from that join a controller to this agent: the address and the port of ours.
std::set<std::pair<std::string, std::uint16_t>> controllers() {
  std::set<std::pair<std::string, std::uint16_t>> found;
  std::error_code ignored;
  const auto self = fs::read_symlink("/proc/self/exe", ignored).string();
  for (const auto& process : fs::directory_iterator("/proc", ignored)) {
    if (std::atoi(process.path().filename().c_str()) <= 0) continue;
    const auto words = split(kernel_text(process.path() / "cmdline"), '\0');
    if (words.size() < 2 || words[1] != "connect" || !words[0].ends_with("midstream-agent")) continue;
    for (const auto& variable : split(kernel_text(process.path() / "environ"), '\0')) {
      if (!variable.starts_with("SSH_CONNECTION=")) continue;
      const auto parts = split(variable.substr(15), ' ');
      if (parts.size() == 4) found.emplace(parts[0], static_cast<std::uint16_t>(std::atoi(parts[3].c_str())));
    }
  }
  return found;
}

}  // namespace

Ears::Ears(Fd four, Fd six) : four_(std::move(four)), six_(std::move(six)), talk_(now_ms()), asked_at_(boot_now()) {}

Ears::~Ears() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

Result<std::unique_ptr<Ears>> Ears::listen() {
  auto four = TRY(open_ear(false));
  auto six = TRY(open_ear(true));
  std::unique_ptr<Ears> ears(new Ears(std::move(four), std::move(six)));
  CHECK_OK(ears->look(true));
  ears->thread_ = std::jthread([raw = ears.get()](const std::stop_token& stop) { raw->run(stop); });
  return ears;
}

void Ears::run(const std::stop_token& stop) {
  auto next = boot_now() + kLook;
  for (int round = 1; !stop.stop_requested();) {
    pollfd polled[2] = {{four_.get(), POLLIN, 0}, {six_.get(), POLLIN, 0}};
    const auto left = std::chrono::ceil<Millis>(next - boot_now()).count();
    ::poll(polled, 2, static_cast<int>(std::clamp<std::int64_t>(left, 0, kLook.count())));
    hear(four_.get());
    hear(six_.get());
    if (boot_now() < next) continue;
    next = boot_now() + kLook;
    auto looked = look(round++ % 8 == 0);
    const std::lock_guard lock(mutex_);
    trouble_ = looked ? std::nullopt : std::optional(looked.error());
  }
}

void Ears::hear(int fd) {
  static const unsigned loopback = ::if_nametoindex("lo");
  char packet[256];
  sockaddr_ll from{};
  socklen_t length = sizeof from;
  for (int count = 0; count < 1'000; ++count) {
    const ssize_t n = ::recvfrom(fd, packet, sizeof packet, 0, reinterpret_cast<sockaddr*>(&from), &length);
    if (n < 0) return;
    Heard heard;
    if (static_cast<unsigned>(from.sll_ifindex) == loopback ||
        !parse_packet({packet, static_cast<std::size_t>(n)}, heard))
      continue;
    const std::lock_guard lock(mutex_);
    talk_.came(heard, now_ms());
  }
}

// Which connections stand. `closely`: also whose the listening sockets are.
Result<> Ears::look(bool closely) {
  std::vector<SocketEntry> all;
  for (const bool udp : {false, true}) {
    for (const bool v6 : {false, true}) {
      const auto text = kernel_text(fmt::format("/proc/thread-self/net/{}{}", udp ? "udp" : "tcp", v6 ? "6" : ""));
      if (text.empty() && !v6) return refused("the kernel does not tell which connections stand (/proc/net)");
      std::ranges::move(parse_sockets(text, udp, v6), std::back_inserter(all));
    }
  }
  for (const auto& socket : all) {
    if (socket.listening) listening_.insert(socket.port);
  }
  using Ends = std::tuple<std::string, std::uint16_t, std::string, std::uint16_t>;
  std::set<Ends> ends;
  for (const auto& socket : all) ends.emplace(socket.local, socket.port, socket.remote, socket.remote_port);
  std::map<Heard, int> standing;
  const auto here = own_addresses();
  for (const auto& socket : all) {
    if (!here.contains(socket.local)) continue;  // the address has moved away, and nothing comes for it any more
    // This host to itself: the other end is here too, be it at an address that has moved away meanwhile.
    const bool local = ends.contains({socket.remote, socket.remote_port, socket.local, socket.port});
    if (socket.established && listening_.contains(socket.port) && !local)
      ++standing[{false, socket.remote, socket.local, socket.port}];
  }
  if (closely) look_closely(all);
  const std::lock_guard lock(mutex_);
  talk_.standing(standing, now_ms());
  return {};
}

void Ears::look_closely(const std::vector<SocketEntry>& all) {
  const auto holders = socket_holders();
  std::map<std::uint16_t, std::string> names;
  std::set<std::uint16_t> own;
  for (const auto& socket : all) {
    const auto holder = holders.find(socket.inode);
    if (!socket.listening || holder == holders.end()) continue;
    if (holder->second == ::getpid()) own.insert(socket.port);
    names[socket.port] = std::string(trim(kernel_text(fmt::format("/proc/{}/comm", holder->second))));
  }
  const auto theirs = controllers();
  const std::lock_guard lock(mutex_);
  talk_.own(own, theirs);
  for (const auto& [port, name] : names) talk_.listener(port, name);
}

Result<Json> Ears::judge(const Silence& silence) {
  const std::lock_guard lock(mutex_);
  asked_at_ = boot_now();
  if (trouble_) return std::unexpected(*trouble_);
  return talk_.judge(silence, now_ms());
}

Millis Ears::unasked() const {
  const std::lock_guard lock(mutex_);
  return std::chrono::duration_cast<Millis>(boot_now() - asked_at_);
}

}  // namespace midstream
