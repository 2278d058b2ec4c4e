// lab-witness: stands at the bridges and writes down who claims which address. It also asks, if told to: an
// owner that nobody talks to is as silent as none.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstring>

#include "base/text.h"
#include "lab/checker/testimony.h"
#include "sys/clock.h"
#include "sys/fd.h"
#include "sys/log.h"

namespace midstream::lab {
namespace {

constexpr Millis kBeat{200};

struct WitnessOptions {
  std::string out;
  std::vector<std::string> interfaces;
  std::vector<std::string> ask;
  std::string from;
  int every_ms = 100;
};

// ARP, and neighbour solicitations and advertisements; everything else stays in the kernel.
constexpr sock_filter kFilter[] = {
    {BPF_LD | BPF_H | BPF_ABS, 0, 0, 12},      {BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 0x0806},
    {BPF_JMP | BPF_JEQ | BPF_K, 0, 6, 0x86dd}, {BPF_LD | BPF_B | BPF_ABS, 0, 0, 20},
    {BPF_JMP | BPF_JEQ | BPF_K, 0, 4, 58},     {BPF_LD | BPF_B | BPF_ABS, 0, 0, 54},
    {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 135},    {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 136},
    {BPF_RET | BPF_K, 0, 0, 0x40000},          {BPF_RET | BPF_K, 0, 0, 0},
};

class Post {
 public:
  static Result<Post> open(const std::string& interface) {
    Post post;
    post.name_ = interface;
    post.index_ = static_cast<int>(::if_nametoindex(interface.c_str()));
    if (post.index_ == 0) return refused(fmt::format("there is no interface {} here", printable(interface)));
    // Protocol 0: nothing arrives before the filter stands and the socket is bound.
    post.fd_ = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!post.fd_) return errno_failure("cannot open a packet socket", errno);
    CHECK_OK(post.set_up());
    return post;
  }

  const std::string& name() const { return name_; }
  int fd() const { return fd_.get(); }
  const Mac& mac() const { return mac_; }

  // What the kernel could not keep since the last call; reading resets it.
  std::int64_t drops() const {
    tpacket_stats stats{};
    socklen_t size = sizeof stats;
    return ::getsockopt(fd_.get(), SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0 ? stats.tp_drops : 1;
  }

  // A frame and when it arrived, CLOCK_REALTIME; false when there is none.
  bool next(std::string& frame, std::int64_t& wall_ns) const {
    frame.resize(256);
    iovec part{frame.data(), frame.size()};
    char control[256];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t n = ::recvmsg(fd_.get(), &message, 0);
    if (n < 0) return false;
    frame.resize(static_cast<std::size_t>(n));
    for (auto* part_of = CMSG_FIRSTHDR(&message); part_of != nullptr;
         part_of = CMSG_NXTHDR(&message, part_of)) {
      if (part_of->cmsg_level != SOL_SOCKET || part_of->cmsg_type != SO_TIMESTAMPNS) continue;
      timespec at{};
      std::memcpy(&at, CMSG_DATA(part_of), sizeof at);
      wall_ns = at.tv_sec * 1000000000LL + at.tv_nsec;
    }
    return true;
  }

  Result<> send(const std::string& frame) const {
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = index_;
    if (::sendto(fd_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to) < 0) {
      return errno_failure(fmt::format("cannot ask on {}", name_), errno);
    }
    return {};
  }

 private:
  Result<> set_up() {
    const int on = 1;
    const int room = 8 << 20;
    const sock_fprog filter{std::size(kFilter), const_cast<sock_filter*>(kFilter)};
    packet_mreq everything{};
    everything.mr_ifindex = index_;
    everything.mr_type = PACKET_MR_PROMISC;  // else a bridge hides the answers, which go from port to port
    const auto set = [&](int level, int name, const void* value, socklen_t size) {
      return ::setsockopt(fd_.get(), level, name, value, size) == 0;
    };
    ifreq request{};
    std::strncpy(request.ifr_name, name_.c_str(), IFNAMSIZ - 1);
    if (!set(SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) ||
        !set(SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) ||
        !set(SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) ||
        !set(SOL_PACKET, PACKET_ADD_MEMBERSHIP, &everything, sizeof everything) ||
        !set(SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) ||
        ::ioctl(fd_.get(), SIOCGIFHWADDR, &request) != 0) {
      return errno_failure(fmt::format("cannot listen on {}", name_), errno);
    }
    std::memcpy(mac_.data(), request.ifr_hwaddr.sa_data, mac_.size());
    sockaddr_ll here{};
    here.sll_family = AF_PACKET;
    here.sll_protocol = htons(ETH_P_ALL);
    here.sll_ifindex = index_;
    if (::bind(fd_.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) != 0) {
      return errno_failure(fmt::format("cannot listen on {}", name_), errno);
    }
    return {};
  }

  std::string name_;
  int index_ = 0;
  Fd fd_;
  Mac mac_{};
};

class Witness {
 public:
  static Result<Witness> open(const WitnessOptions& options) {
    Witness witness;
    witness.options_ = options;
    for (const auto& interface : options.interfaces) witness.posts_.push_back(TRY(Post::open(interface)));
    witness.out_ = Fd(::open(options.out.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644));
    if (!witness.out_) return errno_failure(fmt::format("{} cannot be made", options.out), errno);
    witness.put(start_line(boot_now().count(), wall_now_ms(), boot_id(), join(options.interfaces, ",")));
    CHECK_OK(witness.flush());
    return witness;
  }

  Result<> run(int signals) {
    auto beat = Deadline::in(kBeat);
    auto ask = Deadline::in(Millis(0));
    while (true) {
      if (!options_.ask.empty() && ask.expired()) {
        ask = Deadline::in(Millis(options_.every_ms));
        CHECK_OK(ask_all());
      }
      if (beat.expired()) {
        beat = Deadline::in(kBeat);
        put_beat(false);
      }
      CHECK_OK(flush());
      if (wait(signals,
               options_.ask.empty() ? beat.remaining() : std::min(beat.remaining(), ask.remaining())))
        break;
    }
    listen();
    put_beat(true);
    return flush();
  }

 private:
  // True when asked to end. Writes down what was heard meanwhile.
  bool wait(int signals, Millis span) {
    std::vector<pollfd> polled{{signals, POLLIN, 0}};
    for (const auto& post : posts_) polled.push_back({post.fd(), POLLIN, 0});
    ::poll(polled.data(), polled.size(), static_cast<int>(span.count()));
    listen();
    return polled[0].revents != 0;
  }

  void listen() {
    // The kernel stamps frames in wall-clock time; here and now the two clocks are this far apart.
    timespec wall{};
    ::clock_gettime(CLOCK_REALTIME, &wall);
    const std::int64_t apart = boot_now().count() - (wall.tv_sec * 1000000000LL + wall.tv_nsec);
    std::string frame;
    std::int64_t at_ns = 0;
    for (const auto& post : posts_) {
      while (post.next(frame, at_ns)) {
        const auto spoken = parse_frame(frame);
        if (spoken.question) put(question_line(TimedQuestion{at_ns + apart, *spoken.question}, post.name()));
        if (spoken.claim) put(claim_line(TimedClaim{at_ns + apart, *spoken.claim}, post.name()));
      }
    }
  }

  Result<> ask_all() {
    for (const auto& post : posts_) {
      const std::string link_local = link_local_of(post.mac());
      for (const auto& address : options_.ask) {
        const auto frame = make_question(
            address, address.find(':') == std::string::npos ? options_.from : link_local, post.mac());
        if (frame.empty())
          return refused(
              fmt::format("cannot ask for {} from '{}'", printable(address), printable(options_.from)),
              "give numeric addresses, and --from an unused IPv4 one");
        put(question_line(TimedQuestion{boot_now().count(), *parse_frame(frame).question}, post.name()));
        CHECK_OK(post.send(frame));
      }
    }
    return {};
  }

  void put_beat(bool last) {
    for (const auto& post : posts_) drops_ += post.drops();
    put(beat_line(Beat{boot_now().count(), drops_}, last));
    durable_ = last || ++beats_ % 5 == 0;
  }

  void put(const std::string& line) { pending_ += line + "\n"; }

  Result<> flush() {
    while (!pending_.empty()) {
      const ssize_t n = ::write(out_.get(), pending_.data(), pending_.size());
      if (n < 0) return errno_failure(fmt::format("{} cannot be written", options_.out), errno);
      pending_.erase(0, static_cast<std::size_t>(n));
    }
    if (std::exchange(durable_, false) && ::fdatasync(out_.get()) != 0) {
      return errno_failure(fmt::format("{} cannot be made durable", options_.out), errno);
    }
    return {};
  }

  WitnessOptions options_;
  std::vector<Post> posts_;
  Fd out_;
  std::string pending_;
  std::int64_t drops_ = 0;
  std::int64_t beats_ = 0;
  bool durable_ = true;
};

Result<> run_witness(const WitnessOptions& options, int signals) {
  auto witness = TRY(Witness::open(options));
  log_info("witness", "listens on {}", join(options.interfaces, ", "));
  return witness.run(signals);
}

}  // namespace
}  // namespace midstream::lab

int main(int argc, char** argv) {
  using namespace midstream;
  using namespace midstream::lab;
  WitnessOptions options;
  CLI::App app("Writes down who claims which address on a network.", "lab-witness");
  app.add_option("--out", options.out, "file to write; must not exist")->required();
  app.add_option("--iface", options.interfaces, "bridge, or port of one; may be given again")->required();
  app.add_option("--ask", options.ask,
                 "address to ask for all along, on every interface; may be given again");
  app.add_option("--from", options.from, "unused IPv4 address to ask from");
  app.add_option("--every", options.every_ms, "milliseconds between two questions")
      ->check(CLI::Range(1, 60000));
  CLI11_PARSE(app, argc, argv);

  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGINT);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  const Fd signals(::signalfd(-1, &mask, SFD_CLOEXEC));
  if (auto ran = run_witness(options, signals.get()); !ran) {
    log_line(LogLevel::error, "witness", ran.error().text());
    return 1;
  }
  return 0;
}
