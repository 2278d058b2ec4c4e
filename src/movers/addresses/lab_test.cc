// Handovers between real network namespaces:
//
//   old eth0 --- p-old -+
//   new eth0 --- p-new -+- br0      a namespace each; the witness listens on the bridge's ports
//   third eth0 - p-third+
//
// A crash is an exception thrown at a named point: what is on disk and in the kernel stays as it was at that
// instant.
#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iostream>
#include <mutex>
#include <thread>

#include "base/text.h"
#include "movers/addresses/addresses.h"
#include "movers/addresses/frames.h"
#include "movers/addresses/netlink.h"
#include "movers/addresses/proc.h"
#include "movers/addresses/wire.h"
#include "sys/child.h"
#include "sys/file.h"
#include "sys/net.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

struct Crash {};

constexpr int kV4 = 24;  // and one IPv6 address

std::vector<std::string> moving() {
  std::vector<std::string> all;
  for (int i = 0; i < kV4; ++i) all.push_back(fmt::format("192.0.2.{}", 10 + i));
  all.push_back("2001:db8:26::10");
  return all;
}

// Runs `body` on a thread of its own inside the namespace.
template <class Body>
auto within(const Fd& space, Body body) {
  std::optional<decltype(body())> result;
  std::exception_ptr thrown;
  std::thread([&] {
    if (::setns(space.get(), CLONE_NEWNET) != 0) std::abort();
    try {
      result.emplace(body());
    } catch (...) {
      thrown = std::current_exception();
    }
  }).join();
  if (thrown) std::rethrow_exception(thrown);
  return *std::move(result);
}

Fd make_space() {
  int fd = -1;
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) == 0) fd = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  }).join();
  return Fd(fd);
}

bool ip_command(const Fd& space, const std::string& line) {
  return within(space, [&] {
    std::vector<std::string> argv = split("ip " + line, ' ');
    const auto done = run_child(argv, "", Deadline::in(Millis{10'000}));
    if (!done || done->code != 0) ADD_FAILURE() << line << ": " << (done ? done->err : done.error().text());
    return done && done->code == 0;
  });
}

// What was said on the wire, in order, by whoever sits behind a port of the bridge.
struct Heard {
  std::chrono::nanoseconds at;
  std::string port;
  IpAddress address;
};

class Witness {
 public:
  explicit Witness(const Fd& bridge) {
    within(bridge, [&] {
      fd_ = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
      const int room = 64 << 20;
      ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
      for (const char* port : {"p-old", "p-new", "p-third"})
        ports_[static_cast<int>(::if_nametoindex(port))] = port;
      return true;
    });
    for (const std::string& one : moving()) addresses_.push_back(*parse_ip(one));
    thread_ = std::jthread([this](const std::stop_token& stop) { listen(stop); });
  }

  std::vector<Heard> heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }
  void forget() {
    const std::lock_guard lock(mutex_);
    heard_.clear();
  }
  // How often the sender for an address changed, at most over all addresses.
  int changes() {
    std::map<IpAddress, std::pair<std::string, int>> by_address;
    int most = 0;
    for (const Heard& one : heard()) {
      auto& [port, count] = by_address[one.address];
      if (!port.empty() && port != one.port) most = std::max(most, ++count);
      port = one.port;
    }
    return most;
  }
  std::set<std::string> ports() {
    std::set<std::string> all;
    for (const Heard& one : heard()) all.insert(one.port);
    return all;
  }
  // For each address the time between the last frame of one owner and the first of the next, sorted.
  std::vector<double> gaps() {
    std::map<IpAddress, Heard> last;
    std::vector<double> gaps;
    for (const Heard& one : heard()) {
      const auto before = last.find(one.address);
      if (before != last.end() && before->second.port != one.port)
        gaps.push_back(std::chrono::duration<double, std::milli>(one.at - before->second.at).count());
      last[one.address] = one;
    }
    std::ranges::sort(gaps);
    return gaps;
  }

 private:
  void listen(const std::stop_token& stop) {
    std::array<char, 2048> buffer;
    while (!stop.stop_requested()) {
      sockaddr_ll from{};
      socklen_t size = sizeof from;
      const ssize_t got =
          ::recvfrom(fd_.get(), buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&from), &size);
      if (got < 0) {
        pollfd ready{fd_.get(), POLLIN, 0};
        ::poll(&ready, 1, 20);
        continue;
      }
      const auto at = boot_now();
      const auto port = ports_.find(from.sll_ifindex);
      if (from.sll_pkttype == PACKET_OUTGOING || port == ports_.end()) continue;
      const auto claim = parse_claim({buffer.data(), static_cast<std::size_t>(got)});
      if (!claim || std::ranges::find(addresses_, claim->address) == addresses_.end()) continue;
      const std::lock_guard lock(mutex_);
      heard_.push_back({at, port->second, claim->address});
    }
  }

  Fd fd_;
  std::map<int, std::string> ports_;
  std::vector<IpAddress> addresses_;
  std::mutex mutex_;  // guards heard_
  std::vector<Heard> heard_;
  std::jthread thread_;
};

struct Node {
  std::string name;
  Fd space;
  fs::path root;
  fs::path state;
  std::unique_ptr<Mover> mover;
  std::stop_source stop;
  std::atomic<bool> dead = false;  // crashed: answers nothing until restarted
  std::atomic<bool> cut = false;   // cannot be reached
  std::atomic<std::uint64_t> epoch = 1;  // adopted here
  std::unique_ptr<Peers> peers;
  std::mutex mutex;                // guards the two below
  std::string crash_at;
  std::map<std::string, std::function<void()>> at;

  void point(std::string_view where) {
    std::function<void()> act;
    {
      const std::lock_guard lock(mutex);
      if (where == crash_at) {
        crash_at.clear();
        dead = true;
        throw Crash{};
      }
      if (const auto found = at.find(std::string(where)); found != at.end())
        act = std::exchange(found->second, nullptr);
    }
    if (act) act();
  }
};

class Bench : public ::testing::Test {
 protected:
  // What `caller` reaches the others by: calls are admitted by epoch, as agents do.
  class Line : public Peers {
   public:
    Line(Bench& bench, Node& caller) : bench_(bench), caller_(caller) {}
    Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args,
                      const Task& task, Deadline, const std::stop_token&) override {
      Node& node = bench_.node(host);
      if (mover != "addresses" || node.dead || node.cut) return retry("no link to " + host);
      const std::uint64_t epoch = std::max(task.epoch, caller_.epoch.load());
      if (epoch < node.epoch) return failure(ErrorKind::fenced, "an old epoch");
      if (epoch > node.epoch) return retry("the epoch is not adopted yet");
      try {
        return within(node.space, [&] {
          Context there = bench_.context(node, epoch);
          return node.mover->peer(there, verb, args);
        });
      } catch (const Crash&) {
        return failure(ErrorKind::unknown, host + " went away");
      }
    }
    Result<std::unique_ptr<Stream>> open(const std::string&, std::string_view, const Json&, const Task&, Deadline,
                                         const std::stop_token&) override {
      return refused("no streams here");
    }
    Result<> level_epochs(const std::string& host, Deadline, const std::stop_token&) override {
      Node& node = bench_.node(host);
      if (node.dead || node.cut) return retry("no link to " + host);
      const std::uint64_t higher = std::max(node.epoch.load(), caller_.epoch.load());
      node.epoch = caller_.epoch = higher;
      return {};
    }

   private:
    Bench& bench_;
    Node& caller_;
  };
  Node& node(const std::string& host) { return host == "old" ? old_ : host == "new" ? new_ : third_; }

  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to make network namespaces";
    char name[] = "/tmp/midstream-addresses-XXXXXX";
    directory_ = ::mkdtemp(name);
    bridge_ = make_space();
    ASSERT_TRUE(bridge_);
    ip_command(bridge_, "link add br0 type bridge");
    ip_command(bridge_, "link set br0 up");
    for (Node* node : {&old_, &new_, &third_}) make(*node);
    configure();
    witness_ = std::make_unique<Witness>(bridge_);
    for (Node* node : {&old_, &new_, &third_}) restart(*node);
  }
  void TearDown() override {
    for (Node* node : {&old_, &new_, &third_}) {
      node->stop.request_stop();
      node->mover.reset();
    }
    std::error_code error;
    if (!directory_.empty()) fs::remove_all(directory_, error);
  }

  void make(Node& node) {
    node.name = &node == &old_ ? "old" : &node == &new_ ? "new" : "third";
    node.peers = std::make_unique<Line>(*this, node);
    node.space = make_space();
    ASSERT_TRUE(node.space);
    node.root = directory_ / node.name / "root";
    node.state = directory_ / node.name / "state";
    fs::create_directories(node.root / "etc/network/interfaces.d");
    fs::create_directories(node.state);
    ip_command(bridge_, fmt::format("link add p-{} type veth peer name eth0 netns /proc/{}/fd/{}", node.name,
                                    ::getpid(), node.space.get()));
    ip_command(bridge_, fmt::format("link set p-{} master br0 up", node.name));
    ip_command(node.space, "link set lo up");
    ip_command(node.space, "link set eth0 up");
  }

  virtual void configure() {
    std::string file = "auto lo eth0\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n\n";
    write(new_.root / "etc/network/interfaces",
          file + "iface eth0 inet static\n  address 198.51.100.10/28\n  gateway 198.51.100.1\n");
    file += "iface eth0 inet static\n  address 192.0.2.10/26\n  gateway 192.0.2.1\n";
    for (const std::string& address : moving()) {
      const bool v6 = address.contains(':');
      if (address != "192.0.2.10" && !v6) file += fmt::format("  up ip addr add {}/26 dev $IFACE\n", address);
      ip_command(old_.space,
                 fmt::format("addr add {}/{} dev eth0{}", address, v6 ? 64 : 26, v6 ? " nodad" : ""));
    }
    file += "  # the house's own\n\niface eth0 inet6 static\n  address 2001:db8:26::10/64\n";
    write(old_.root / "etc/network/interfaces", file);
    original_ = file;
    ip_command(old_.space, "addr add 198.51.100.5/28 dev eth0");
    ip_command(old_.space, "route add default via 192.0.2.1 src 192.0.2.12");
    ip_command(old_.space, "route add 203.0.113.0/24 via 192.0.2.1");
    ip_command(new_.space, "addr add 198.51.100.10/28 dev eth0");
    ip_command(new_.space, "addr add 2001:db8:28::10/64 dev eth0 nodad");
    ip_command(new_.space, "route add default via 198.51.100.1");
    ip_command(new_.space, "route add default via 2001:db8:28::1");
    for (const char* address : {"192.0.2.1/26", "198.51.100.1/28"})
      ip_command(third_.space, fmt::format("addr add {} dev eth0", address));
    for (const char* address : {"2001:db8:26::1/64", "2001:db8:28::1/64"})
      ip_command(third_.space, fmt::format("addr add {} dev eth0 nodad", address));
  }

  static void write(const fs::path& file, const std::string& text) {
    ASSERT_TRUE(write_file_durably(file, text, 0644));
  }

  // A new agent over what the old one left.
  void restart(Node& node) {
    node.stop.request_stop();
    node.mover.reset();
    node.stop = std::stop_source();
    node.dead = false;
    AddressesOptions options{.root = node.root,
                             .lease = lease_,
                             .checkpoint = [&node](std::string_view where) { node.point(where); }};
    node.mover = make_addresses_mover(options);
    const auto started = within(node.space, [&] { return node.mover->start(context(node, 1)); });
    EXPECT_TRUE(started);
  }

  Context context(Node& node, std::uint64_t epoch) {
    return {{"autumn", "addresses", epoch}, node.name, node.state, *node.peers, Deadline::in(Millis{20'000}),
            node.stop.get_token()};
  }

  Json desired(const std::string& kind) {
    return {{"kind", kind},
            {"addresses", moving()},
            {"prefix4", 26},
            {"prefix6", 64},
            {"from", {{"host", "old"}, {"dev", "eth0"}}},
            {"to", {{"host", "new"}, {"dev", "eth0"}}},
            {"verifier", verifier_},
            {"gateway4", "192.0.2.1"},
            {"gateway6", "2001:db8:26::1"}};
  }
  enum class Verb { apply, undo, observe, observe_undo, check };
  Result<Json> ask(Verb verb, const std::string& kind, std::uint64_t epoch = 1) {
    for (Node* one : {&old_, &new_, &third_}) one->epoch = std::max(one->epoch.load(), epoch);  // adopted beforehand
    try {
      return within(new_.space, [&] {
        const Context here = context(new_, epoch);
        const Json wish = desired(kind);
        if (verb == Verb::apply) return new_.mover->apply(here, wish);
        if (verb == Verb::undo) return new_.mover->undo(here, wish);
        if (verb == Verb::check) return new_.mover->check(here, wish);
        if (verb == Verb::observe_undo) return new_.mover->observe_undo(here, wish);
        return new_.mover->observe(here, wish);
      });
    } catch (const Crash&) {
      return failure(ErrorKind::unknown, "new went away");
    }
  }

  std::set<std::string> on(Node& node, const std::string& dev) {
    return within(node.space, [&] {
      auto netlink = Netlink::open();
      std::set<std::string> found;
      const unsigned index = netlink->link(dev)->index;
      const auto entries = netlink->addresses().value();
      for (const AddressEntry& entry : entries)
        if (entry.index == index && std::ranges::count(moving(), to_string(entry.ip)) > 0)
          found.insert(to_string(entry.ip));
      return found;
    });
  }
  std::string routes(Node& node) {
    return within(node.space, [&] {
      return run_child({"ip", "route"}, "", Deadline::in(Millis{10'000}))->out;
    });
  }
  std::string sysctl(Node& node, const std::string& name) {
    return within(node.space, [&] { return read_sysctl(name).value_or("?"); });
  }
  void expect_owner(Node& owner, Node& other, const std::string& where = "") {
    EXPECT_EQ(on(owner, "eth0").size(), moving().size()) << where;
    EXPECT_EQ(on(other, "eth0").size(), 0u) << where;
    const auto seen = ask(Verb::observe, "own");
    ASSERT_TRUE(seen) << seen.error().text();
    EXPECT_EQ((*seen)["reached"], &owner == &new_) << where << " " << seen->dump();
    EXPECT_EQ((*seen)["owner"]["192.0.2.10"], owner.name) << where;
    if (&owner == &old_) {
      EXPECT_EQ(read_file(old_.root / "etc/network/interfaces").value(), original_) << where;
      EXPECT_TRUE(fs::is_empty(new_.root / "etc/network/interfaces.d")) << where;
    } else {
      EXPECT_FALSE(read_file(old_.root / "etc/network/interfaces")->contains("192.0.2.1\x30/")) << where;
      EXPECT_FALSE(fs::is_empty(new_.root / "etc/network/interfaces.d")) << where;
    }
  }

  // Asks for every address all along, each 5 ms, as many neighbours would.
  std::jthread prober() {
    return std::jthread([this](const std::stop_token& stop) {
      ::setns(third_.space.get(), CLONE_NEWNET);
      auto wire = Wire::open("eth0");
      std::vector<IpAddress> all;
      for (const std::string& one : moving()) all.push_back(*parse_ip(one));
      while (wire && !stop.stop_requested()) (void)wire->ask(all, Asking{1, Millis{0}, Millis{5}}, {});
    });
  }
  Fd listener(Node& node, std::uint16_t port = 0) {
    return within(node.space, [&] { return listen_tcp("0.0.0.0", port).value(); });
  }

  fs::path directory_;
  std::string verifier_ = "third";
  Millis lease_{60'000};
  Fd bridge_;
  Node old_, new_, third_;
  std::unique_ptr<Witness> witness_;
  std::string original_;
};

TEST_F(Bench, StagingIsSilentAndGoesAway) {
  const Fd service = listener(old_);
  const std::uint16_t port = local_port(service.get()).value();
  const auto probing = prober();
  const auto early = ask(Verb::apply, "stage");
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().kind, ErrorKind::refused);
  EXPECT_TRUE(early.error().what.contains(fmt::format("192.0.2.10 port {}", port))) << early.error().text();
  const Fd twin = listener(new_, port);
  const auto staged = ask(Verb::apply, "stage");
  ASSERT_TRUE(staged) << staged.error().text();
  EXPECT_EQ(on(new_, "lo").size(), moving().size());
  EXPECT_TRUE((*ask(Verb::observe, "stage"))["staged"]);
  // A service that is bound to a staged address talks: not even then is the address seen.
  within(new_.space, [&] {
    Fd talker(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in from{.sin_family = AF_INET}, to{.sin_family = AF_INET, .sin_port = htons(9)};
    ::inet_pton(AF_INET, "192.0.2.11", &from.sin_addr);
    ::inet_pton(AF_INET, "198.51.100.2", &to.sin_addr);
    EXPECT_EQ(::bind(talker.get(), reinterpret_cast<sockaddr*>(&from), sizeof from), 0);
    EXPECT_EQ(::sendto(talker.get(), "x", 1, 0, reinterpret_cast<sockaddr*>(&to), sizeof to), 1);
    EXPECT_TRUE(connect_tcp("192.0.2.12", port, Deadline::in(Millis{1'000})));  // and can be tried from here
    return true;
  });
  restart(new_);  // also over a restart of the agent
  EXPECT_TRUE(pause_for(Millis{300}, {}));
  EXPECT_EQ(witness_->ports(), std::set<std::string>{"p-old"});
  EXPECT_EQ(sysctl(new_, "net/ipv4/conf/all/arp_ignore"), "1");
  ASSERT_TRUE(ask(Verb::undo, "stage"));
  ASSERT_TRUE(ask(Verb::undo, "stage"));
  EXPECT_EQ(on(new_, "lo").size(), 0u);
  EXPECT_EQ(sysctl(new_, "net/ipv4/conf/all/arp_ignore"), "0");
  EXPECT_EQ(sysctl(new_, "net/ipv4/conf/all/arp_announce"), "0");
}

TEST_F(Bench, CheckFindsNothingWrongAndThenEachFault) {
  const auto wrong = [&] {
    std::set<std::string> what;
    const auto list = ask(Verb::check, "own");
    EXPECT_TRUE(list);
    for (const Json& one : *list)
      if (!one["ok"]) what.insert(one["what"].get<std::string>() + ": " + one["detail"].get<std::string>());
    return what;
  };
  EXPECT_EQ(wrong(), std::set<std::string>{});
  EXPECT_EQ(on(new_, "lo").size(), 0u);
  ip_command(third_.space, "addr add 192.0.2.20/26 dev eth0");
  EXPECT_EQ(wrong().size(), 1u);  // new sees two; the third host does not ask itself
  ip_command(third_.space, "addr del 192.0.2.20/26 dev eth0");
  ip_command(old_.space, "addr del 198.51.100.5/28 dev eth0");
  write(old_.root / "etc/network/interfaces", "iface eth0 inet manual\n");
  EXPECT_EQ(wrong().size(), 2u);
}

TEST_F(Bench, TenTimesToAndFro) {
  const Fd service = listener(old_);
  const std::uint16_t port = local_port(service.get()).value();
  const Fd twin = listener(new_, port);
  const std::string routes_before = routes(old_);
  ASSERT_TRUE(ask(Verb::apply, "stage"));
  auto probing = prober();
  const auto reaches = [&](const std::string& address) {
    return within(third_.space,
                  [&] { return connect_tcp(address, port, Deadline::in(Millis{300})).has_value(); });
  };
  for (int i = 0; i < kV4; ++i) EXPECT_TRUE(reaches(moving()[static_cast<std::size_t>(i)])) << i;
  std::vector<double> reported;
  for (int round = 0; round < 10; ++round) {
    for (const Verb verb : {Verb::apply, Verb::undo}) {
      const auto done = ask(verb, "own");
      ASSERT_TRUE(done) << round << ": " << done.error().text();
      ASSERT_EQ((*done)["addresses"].size(), moving().size());
      for (const Json& one : (*done)["addresses"]) reported.push_back(one["blackout_ms"].get<double>());
      expect_owner(verb == Verb::apply ? new_ : old_, verb == Verb::apply ? old_ : new_,
                   std::to_string(round));
      EXPECT_TRUE(reaches("192.0.2.10"));
      EXPECT_TRUE(reaches("192.0.2.33"));
    }
  }
  EXPECT_EQ(routes(old_), routes_before);
  probing.request_stop();
  EXPECT_LE(witness_->changes(), 20);
  std::vector<double> gaps = witness_->gaps();
  std::ranges::sort(reported);
  ASSERT_GE(gaps.size(), 20 * moving().size() - 20);
  const auto at = [](const std::vector<double>& v, double q) {
    return v[static_cast<std::size_t>(q * static_cast<double>(v.size() - 1))];
  };
  std::cout << fmt::format(
      "blackout on the wire, ms: median {:.1f} p95 {:.1f} worst {:.1f}; as the agents saw it: median {:.0f} "
      "p95 {:.0f} worst {:.0f}\n",
      at(gaps, 0.5), at(gaps, 0.95), gaps.back(), at(reported, 0.5), at(reported, 0.95), reported.back());
  EXPECT_LT(at(gaps, 0.5), 250);  // loose: the build may be slow and instrumented
  EXPECT_EQ(on(new_, "lo").size(), moving().size());
  EXPECT_EQ(witness_->ports(), (std::set<std::string>{"p-old", "p-new"}));
}

TEST_F(Bench, WhoWaitsForAnAnswerIsToldThatNoneComes) {
  const Fd service = listener(old_);
  const std::uint16_t port = local_port(service.get()).value();
  const Fd twin = listener(new_, port);
  const auto to = [&](const char* address) {
    return within(third_.space, [&] { return connect_tcp(address, port, Deadline::in(Millis{2'000})).value(); });
  };
  const Fd goes = to("192.0.2.10"), stays = to("198.51.100.5");
  ASSERT_TRUE(ask(Verb::apply, "stage") && ask(Verb::apply, "own"));
  pollfd told[2]{{goes.get(), POLLIN, 0}, {stays.get(), POLLIN, 0}};
  ASSERT_EQ(::poll(told, 2, 5'000), 1) << "a client that only waits would do so for as long as its patience lasts";
  EXPECT_TRUE(told[0].revents & POLLERR);
}

// Without a third host each way is seen from the side that gave the addresses away.
TEST_F(Bench, ThePoolIsGivenBack) {
  ip_command(new_.space, "addr add 198.51.100.11/28 dev eth0");  // secondary, and not of the move
  const auto pool = [&](std::vector<std::string> gateways, std::vector<std::string> addresses) {
    return Json{{"kind", "release"}, {"host", "new"}, {"dev", "eth0"}, {"addresses", addresses}, {"gateways", gateways}};
  };
  const std::vector<std::string> all{"198.51.100.10", "198.51.100.11", "2001:db8:28::10"};
  const auto mine = [&](auto body) { return within(new_.space, [&] { return body(context(new_, 1)); }); };
  const auto apply = [&](const Json& wish) { return mine([&](const Context& here) { return new_.mover->apply(here, wish); }); };
  const auto observe = [&](const Json& wish) { return mine([&](const Context& here) { return new_.mover->observe(here, wish); }); };
  const auto told = [&](const std::string& line) {
    return within(new_.space, [&] { return run_child(split(line, ' '), "", Deadline::in(Millis{10'000}))->out; });
  };
  ASSERT_TRUE(ask(Verb::apply, "stage"));
  ASSERT_TRUE(ask(Verb::apply, "own"));
  const auto before = routes(new_);
  const auto file = read_file(new_.root / "etc/network/interfaces").value();
  // Nothing would lead out any more.
  const auto stranded = apply(pool({"192.0.2.1"}, all));
  ASSERT_FALSE(stranded);
  EXPECT_EQ(stranded.error().kind, ErrorKind::refused);
  EXPECT_TRUE(stranded.error().what.contains("the route default via 2001:db8:28::1 on new needs")) << stranded.error().what;
  EXPECT_EQ(routes(new_), before);
  EXPECT_EQ(read_file(new_.root / "etc/network/interfaces").value(), file);

  const auto wish = pool({"192.0.2.1", "2001:db8:26::1"}, {"198.51.100.10", "2001:db8:28::10"});
  EXPECT_FALSE((*observe(wish))["reached"]);
  {  // a session of this very host, which nobody else sees
    const Fd service = listener(new_);
    const auto session = within(new_.space, [&] {
      return connect_tcp("198.51.100.10", local_port(service.get()).value(), Deadline::in(Millis{1'000}));
    });
    ASSERT_TRUE(session) << session.error().text();
    const auto busy = apply(wish);
    ASSERT_FALSE(busy);
    EXPECT_EQ(busy.error().kind, ErrorKind::retry);
    EXPECT_TRUE(busy.error().what.contains("connections still end at 198.51.100.10")) << busy.error().what;
    EXPECT_TRUE(told("ip -o addr show dev eth0").contains("198.51.100.10/"));
  }
  for (int i = 0; i < 2; ++i) {
    const auto done = apply(wish);
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_TRUE((*observe(wish))["reached"]) << observe(wish)->dump();
  }
  const auto addresses = told("ip -o addr show dev eth0");
  EXPECT_FALSE(addresses.contains("198.51.100.10/")) << addresses;
  EXPECT_FALSE(addresses.contains("2001:db8:28::10/")) << addresses;
  EXPECT_TRUE(addresses.contains("198.51.100.11/")) << "it went with its primary: " << addresses;
  EXPECT_TRUE(addresses.contains("192.0.2.10/")) << addresses;
  // Another address still reaches that gateway: the IPv4 route is nobody's business.
  EXPECT_TRUE(told("ip -4 route").contains("default via 198.51.100.1")) << told("ip -4 route");
  EXPECT_TRUE(told("ip -6 route").contains("default via 2001:db8:26::1")) << told("ip -6 route");

  ASSERT_TRUE(apply(pool({"192.0.2.1", "2001:db8:26::1"}, all)));
  EXPECT_TRUE(told("ip -4 route").contains("default via 192.0.2.1 dev eth0")) << told("ip -4 route");
  EXPECT_FALSE(told("ip -4 route").contains("198.51.100")) << told("ip -4 route");
  EXPECT_FALSE(read_file(new_.root / "etc/network/interfaces")->contains("198.51.100"));
  const auto boot = read_file(new_.root / "etc/network/interfaces.d/midstream-subnet-gateway").value_or("");
  EXPECT_TRUE(boot.contains("ip route replace default via 192.0.2.1 dev eth0")) << boot;
  EXPECT_TRUE(boot.contains("ip -6 route replace default via 2001:db8:26::1 dev eth0")) << boot;
}

TEST_F(Bench, ToAndFroWithoutAThirdHost) {
  for (const char* none : {"", "old", "new"}) {
    verifier_ = none;
    ASSERT_TRUE(ask(Verb::apply, "stage"));
    auto probing = prober();
    for (const Verb verb : {Verb::apply, Verb::undo}) {
      const auto done = ask(verb, "own");
      ASSERT_TRUE(done) << none << ": " << done.error().text();
      expect_owner(verb == Verb::apply ? new_ : old_, verb == Verb::apply ? old_ : new_, none);
    }
    probing.request_stop();
  }
  // And what it sees counts: somebody else has an address while new is to give it back.
  ASSERT_TRUE(ask(Verb::apply, "own"));
  ip_command(third_.space, "addr add 192.0.2.20/32 dev eth0");
  const auto contested = ask(Verb::undo, "own");
  ASSERT_FALSE(contested);
  EXPECT_EQ(contested.error().kind, ErrorKind::refused) << contested.error().text();
  expect_owner(new_, old_);
  ip_command(third_.space, "addr del 192.0.2.20/32 dev eth0");
  ASSERT_TRUE(ask(Verb::undo, "own"));
  expect_owner(old_, new_);
}

TEST_F(Bench, CrashesAnywhereThenGoesOnOrGoesBack) {
  ASSERT_TRUE(ask(Verb::apply, "stage"));
  const auto probing = prober();
  const std::vector<std::pair<Node*, std::string>> points{
      {&old_, "prepare: kept"},    {&old_, "prepare: yielding"}, {&old_, "prepare: unpersisted"},
      {&old_, "release: deleted"}, {&old_, "release: yielded"},  {&new_, "own: prepared"},
      {&new_, "own: yielded"},     {&new_, "take: probed"},      {&new_, "take: owner"},
      {&new_, "take: added"},      {&new_, "take: announced"},   {&new_, "own: taken"},
      {&new_, "own: verified"},    {&new_, "persist: written"},  {&new_, "own: persisted"}};
  for (const auto& [node, point] : points) {
    for (const bool go_on : {true, false}) {
      const std::string where = point + (go_on ? ", then on" : ", then back");
      witness_->forget();
      node->crash_at = point;
      EXPECT_FALSE(ask(Verb::apply, "own")) << where;
      EXPECT_TRUE(node->dead) << where;
      node->crash_at.clear();
      restart(*node);
      if (go_on) {
        const auto done = ask(Verb::apply, "own");
        ASSERT_TRUE(done) << where << ": " << done.error().text();
        expect_owner(new_, old_, where);
      }
      const auto back = ask(Verb::undo, "own");
      ASSERT_TRUE(back) << where << ": " << back.error().text();
      expect_owner(old_, new_, where);
      EXPECT_LE(witness_->changes(), 2) << where;
    }
  }
}

TEST_F(Bench, CrashesOnTheWayBack) {
  ASSERT_TRUE(ask(Verb::apply, "stage"));
  const auto probing = prober();
  const std::vector<std::pair<Node*, std::string>> points{
      {&new_, "prepare: kept"},    {&new_, "prepare: unpersisted"}, {&new_, "release: deleted"},
      {&new_, "release: yielded"}, {&old_, "take: probed"},         {&old_, "take: owner"},
      {&old_, "take: added"},      {&old_, "persist: written"},     {&new_, "own: taken"}};
  for (const auto& [node, point] : points) {
    witness_->forget();
    ASSERT_TRUE(ask(Verb::apply, "own")) << point;
    node->crash_at = point;
    EXPECT_FALSE(ask(Verb::undo, "own")) << point;
    EXPECT_TRUE(node->dead) << point;
    restart(*node);
    const auto back = ask(Verb::undo, "own");
    ASSERT_TRUE(back) << point << ": " << back.error().text();
    expect_owner(old_, new_, point);
    EXPECT_LE(witness_->changes(), 2) << point;
  }
}

TEST_F(Bench, SomebodyElseHasAnAddress) {
  ip_command(third_.space, "addr add 192.0.2.20/32 dev eth0");
  Json wish = desired("own");
  wish["verifier"] = "";
  const auto before = within(new_.space, [&] { return new_.mover->apply(context(new_, 1), wish); });
  ASSERT_FALSE(before);
  EXPECT_EQ(before.error().kind, ErrorKind::refused);
  ip_command(third_.space, "addr del 192.0.2.20/32 dev eth0");
  // It comes up in the very instant in which nobody has the address.
  new_.at["own: yielded"] = [&] { ip_command(third_.space, "addr add 192.0.2.20/32 dev eth0"); };
  const auto during = ask(Verb::apply, "own");
  ASSERT_FALSE(during);
  EXPECT_EQ(during.error().kind, ErrorKind::refused) << during.error().text();
  EXPECT_TRUE(during.error().what.contains("192.0.2.20") &&
              during.error().what.contains("has the addresses back"))
      << during.error().text();
  ip_command(third_.space, "addr del 192.0.2.20/32 dev eth0");
  expect_owner(old_, new_);
  EXPECT_FALSE(witness_->ports().contains("p-new"));
  ASSERT_TRUE(ask(Verb::apply, "own"));
  expect_owner(new_, old_);
}

TEST_F(Bench, OldCannotBeReached) {
  old_.cut = true;
  const auto held = ask(Verb::apply, "own");
  ASSERT_FALSE(held);
  EXPECT_EQ(held.error().kind, ErrorKind::retry);
  EXPECT_EQ(on(old_, "eth0").size(), moving().size());
  EXPECT_EQ(on(new_, "eth0").size(), 0u);
  old_.cut = false;
  // Its answer is lost after it has yielded: nobody owns, and nobody takes on a guess.
  old_.crash_at = "release: yielded";
  const auto lost = ask(Verb::apply, "own");
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().kind, ErrorKind::unknown);
  EXPECT_EQ(ask(Verb::apply, "own").error().kind, ErrorKind::retry);
  EXPECT_EQ(on(new_, "eth0").size(), 0u);
  new_.cut = true;  // so that old, started again, cannot ask new to stand down
  restart(old_);
  EXPECT_EQ(on(old_, "eth0").size(), 0u);
  new_.cut = false;
  ASSERT_TRUE(ask(Verb::apply, "own"));
  expect_owner(new_, old_);
  EXPECT_EQ((*ask(Verb::observe_undo, "own"))["possible"], true);
  old_.cut = true;
  const auto outlook = ask(Verb::observe_undo, "own").value();
  EXPECT_EQ(outlook["possible"], false);
  EXPECT_NE(outlook["why"].get<std::string>().find("old cannot be asked"), std::string::npos) << outlook.dump();
  old_.cut = false;
}

TEST_F(Bench, LowerEpochIsFenced) {
  ASSERT_TRUE(ask(Verb::apply, "own", 5));
  EXPECT_EQ(ask(Verb::undo, "own", 4).error().kind, ErrorKind::fenced);
  expect_owner(new_, old_);
  ASSERT_TRUE(ask(Verb::undo, "own", 5));
  expect_owner(old_, new_);
}

TEST_F(Bench, AddressesThatComeBackOnOldAreRemoved) {
  ASSERT_TRUE(ask(Verb::apply, "own"));
  ip_command(new_.space, "addr del 192.0.2.10/26 dev eth0");  // as after a power cut before it was persisted
  restart(new_);
  EXPECT_EQ(on(new_, "eth0").size(), moving().size());
  old_.stop.request_stop();
  ip_command(old_.space, "addr add 192.0.2.11/26 dev eth0");
  restart(old_);
  expect_owner(new_, old_);
}

class ShortLease : public Bench {
 protected:
  ShortLease() { lease_ = Millis{200}; }
  bool comes_back() {
    for (int i = 0; i < 100; ++i) {
      if (on(old_, "eth0").size() == moving().size()) return true;
      pause_for(Millis{50}, {});
    }
    return false;
  }
};

TEST_F(ShortLease, OldTakesBackOnceNewHasStoodDown) {
  new_.crash_at = "own: yielded";
  EXPECT_FALSE(ask(Verb::apply, "own"));
  EXPECT_TRUE(pause_for(Millis{600}, {}));
  EXPECT_EQ(on(old_, "eth0").size(), 0u);  // new is dead: nobody knows what it did, so the addresses are held
  restart(new_);
  EXPECT_TRUE(comes_back());
  pause_for(Millis{200}, {});
  expect_owner(old_, new_);
  ASSERT_TRUE(ask(Verb::apply, "own"));
  pause_for(Millis{600}, {});
  expect_owner(new_, old_);  // the lease's end finds that new owns
}

// The controller died while it began an epoch: one agent has adopted it, the other has not, and none ever comes back.
TEST_F(ShortLease, TheLeaseEndsBetweenTwoEpochs) {
  std::uint64_t epoch = 1;
  for (Node* ahead : {&old_, &new_}) {
    const std::string where = ahead->name + " is ahead";
    new_.at["own: yielded"] = [&] {
      ahead->epoch = ++epoch;
      throw Crash{};
    };
    EXPECT_FALSE(ask(Verb::apply, "own", epoch)) << where;
    EXPECT_EQ(on(new_, "eth0").size(), 0u) << where;
    EXPECT_TRUE(comes_back()) << where;
    pause_for(Millis{200}, {});
    expect_owner(old_, new_, where);
    EXPECT_EQ(old_.epoch, epoch) << where;
    EXPECT_EQ(new_.epoch, epoch) << where;
  }
}

TEST_F(ShortLease, OldGoesBackAloneBeforeItHasYielded) {
  new_.crash_at = "own: prepared";
  EXPECT_FALSE(ask(Verb::apply, "own"));
  pause_for(Millis{700}, {});
  EXPECT_EQ(read_file(old_.root / "etc/network/interfaces").value(), original_);
  restart(new_);
  expect_owner(old_, new_);
}

}  // namespace
}  // namespace midstream
