// Against a real BIND primary and secondary, in a network namespace of this process alone.
#include "movers/names/names.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "movers/names/dns.h"
#include "sys/child.h"
#include "sys/file.h"
#include "sys/net.h"
#include "sys/stream.h"

// The clock that requests are signed by, for this program alone: a host whose clock is wrong.
static std::atomic<time_t> clock_error_s = 0;
extern "C" int gettimeofday(timeval* now, void*) noexcept {
  timespec exact{};
  ::clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec + clock_error_s;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

namespace midstream {
namespace {

namespace fs = std::filesystem;
using dns::Type;

class NoPeers final : public Peers {
 public:
  Result<Json> call(const std::string&, std::string_view, std::string_view, const Json&, const Task&,
                    Deadline, const std::stop_token&) override {
    return refused("no peers here");
  }
  Result<std::unique_ptr<Stream>> open(const std::string&, std::string_view, const Json&, const Task&,
                                       Deadline, const std::stop_token&) override {
    return refused("no peers here");
  }
};

// A key like tsig-keygen's, from a fixed byte: only this test's servers know it.
std::string key_file(const std::string& name, const std::string& algorithm, char fill) {
  return "key \"" + name + "\" {\n\talgorithm " + algorithm + ";\n\tsecret \"" + std::string(44, fill) +
         "\";\n};\n";
}

// Stands before the primary at 127.0.0.3: passes questions on, and spoils the answers to what comes over TCP.
class Relay {
 public:
  enum class Spoil { drop, tamper };
  explicit Relay(Spoil spoil) : spoil_(spoil) {
    listener_ = listen_tcp("127.0.0.3", 53).value();
    datagrams_ = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto here = at("127.0.0.3");
    EXPECT_EQ(::bind(datagrams_.get(), reinterpret_cast<const sockaddr*>(&here), sizeof here), 0);
    threads_.emplace_back([this](const std::stop_token& stop) { pass_datagrams(stop); });
    threads_.emplace_back([this](const std::stop_token& stop) { spoil_updates(stop); });
  }

 private:
  static sockaddr_in at(const char* address) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(53);
    ::inet_pton(AF_INET, address, &to.sin_addr);
    return to;
  }
  void pass_datagrams(const std::stop_token& stop) {
    char buffer[4096];
    while (wait_fd(datagrams_.get(), POLLIN, Deadline::in(Millis(60'000)), stop)) {
      sockaddr_in from{};
      socklen_t size = sizeof from;
      const auto got =
          ::recvfrom(datagrams_.get(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
      const Fd onward(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      const auto primary = at("127.0.0.1");
      ::sendto(onward.get(), buffer, static_cast<std::size_t>(got), 0,
               reinterpret_cast<const sockaddr*>(&primary), sizeof primary);
      if (!wait_fd(onward.get(), POLLIN, Deadline::in(Millis(2'000)), stop)) continue;
      const auto reply = ::recv(onward.get(), buffer, sizeof buffer, 0);
      ::sendto(datagrams_.get(), buffer, static_cast<std::size_t>(reply), 0,
               reinterpret_cast<const sockaddr*>(&from), size);
    }
  }
  void spoil_updates(const std::stop_token& stop) {
    while (auto accepted = accept_one(listener_.get(), stop)) {
      auto client = make_fd_stream(*std::move(accepted));
      const auto deadline = Deadline::in(Millis(3'000));
      auto primary = make_fd_stream(connect_tcp("127.0.0.1", 53, deadline, stop).value());
      char buffer[8192];
      auto got = client->read_some(buffer, deadline, stop);
      if (!got || !primary->write_all({buffer, *got}, deadline, stop)) continue;
      got = primary->read_some(buffer, deadline, stop);
      if (!got || spoil_ == Spoil::drop) continue;
      buffer[5] ^= 1;  // 2 bytes of length, 2 of id, flags: another rcode
      (void)client->write_all({buffer, *got}, deadline, stop);
    }
  }

  Spoil spoil_;
  Fd listener_;
  Fd datagrams_;
  std::vector<std::jthread> threads_;
};

class NamesLab : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) return;
    const auto deadline = Deadline::in(Millis(10'000));
    for (const auto& argv :
         std::vector<std::vector<std::string>>{{"ip", "link", "set", "lo", "up"},
                                               {"ip", "addr", "add", "127.0.0.2/32", "dev", "lo"},
                                               {"ip", "addr", "add", "127.0.0.3/32", "dev", "lo"}}) {
      const auto ran = run_child(argv, "", deadline);
      isolated_ = ran && ran->code == 0;
    }
  }
  void SetUp() override {
    if (!isolated_) GTEST_SKIP() << "needs root, for a network namespace of its own";
    if (::access("/usr/sbin/named", X_OK) != 0) GTEST_SKIP() << "named (bind9) is not installed";
    char name[] = "/tmp/midstream-names-XXXXXX";
    dir_ = ::mkdtemp(name);
    fs::create_directory(dir_ / "primary");
    fs::create_directory(dir_ / "secondary");
    put("good.key", key_file("mover", "hmac-sha256", 'A'));
    put("long.key", key_file("longer", "hmac-sha512", 'B'));
    put("narrow.key", key_file("narrow", "hmac-sha256", 'C'));
    put("other-secret.key", key_file("mover", "hmac-sha256", 'E'));
    put("unknown.key", key_file("stranger", "hmac-sha256", 'F'));
    put("primary/zone",
        "$TTL 300\n@ SOA ns1 host 1 3600 2 86400 60\n NS ns1\n NS ns2\nns1 A 127.0.0.1\n AAAA ::1\n"
        "ns2 A 127.0.0.2\n AAAA 2001:db8:113::22\nshop A 192.0.2.10\n AAAA 2001:db8:26::10\nwww CNAME "
        "shop\n");
    put("primary/conf", options("primary", "127.0.0.1", "::1") + read_file(dir_ / "good.key").value() +
                            read_file(dir_ / "long.key").value() + read_file(dir_ / "narrow.key").value() +
                            "zone \"prod.example\" { type primary; file \"zone\"; also-notify { 127.0.0.2; "
                            "}; update-policy {\n"
                            " grant mover zonesub A AAAA TXT; grant longer zonesub ANY; grant narrow name "
                            "shop.prod.example. A; }; };\n");
    put("secondary/conf", options("secondary", "127.0.0.2", "none") +
                              "zone \"prod.example\" { type secondary; primaries { 127.0.0.1; }; };\n");
    primary_ = start("primary");
    await_answer("127.0.0.1");
    if (!HasFatalFailure()) start_secondary();
  }
  void TearDown() override {
    stop(primary_);
    stop(secondary_);
    if (!dir_.empty()) fs::remove_all(dir_);
  }

  void put(const std::string& file, const std::string& text) {
    ASSERT_TRUE(write_file_durably(dir_ / file, text));
  }
  std::string options(const std::string& who, const std::string& v4, const std::string& v6) const {
    return "options { directory \"" + (dir_ / who).string() + "\"; listen-on { " + v4 +
           "; }; listen-on-v6 { " + v6 +
           "; }; recursion no; pid-file none; lock-file none; session-keyfile none; dnssec-validation no; "
           "notify explicit; "
           "notify-delay 0; allow-transfer { any; }; transfer-source " +
           v4 + "; notify-source " + v4 + "; minimal-responses yes; };\ncontrols { };\n";
  }
  pid_t start(const std::string& who) const {
    const auto conf = dir_ / who / "conf";
    const auto log = dir_ / who / "log";
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::freopen(log.c_str(), "a", stderr) == nullptr) ::_exit(126);
      ::execl("/usr/sbin/named", "named", "-g", "-n", "1", "-c", conf.c_str(), nullptr);
      ::_exit(127);
    }
    return pid;
  }
  static void stop(pid_t& pid) {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    ::waitpid(std::exchange(pid, -1), nullptr, 0);
  }
  void start_secondary() {
    secondary_ = start("secondary");
    await_answer("127.0.0.2");
  }
  void await_answer(const std::string& address) {
    const auto until = Deadline::in(Millis(15'000));
    while (true) {
      ASSERT_FALSE(until.expired()) << address << " does not answer";
      const auto answer =
          dns::ask({address, 53}, "shop.prod.example.", Type::a, Deadline::in(Millis(200)), {});
      if (answer && answer->authoritative && !answer->values.empty()) return;
      pause_for(Millis(20), {});
    }
  }

  Context context(std::uint64_t epoch = 1, int deadline_ms = 8'000, std::string move = "autumn") {
    return {{std::move(move), "step", epoch},  "out", dir_ / "state", peers_,
            Deadline::in(Millis(deadline_ms)), {}};
  }
  Json base(const std::string& kind, const std::string& type = "A") const {
    return {{"kind", kind},
            {"server", "127.0.0.1"},
            {"port", 53},
            {"zone", "prod.example."},
            {"name", "shop.prod.example."},
            {"type", type},
            {"key_file", (dir_ / "good.key").string()}};
  }
  Json repoint(const std::string& type = "A") const {
    auto desired = base("repoint", type);
    if (type == "A")
      desired.update({{"from", "192.0.2.10"}, {"to", "198.51.100.10"}, {"ttl", 5'000}});
    else
      desired.update({{"from", "2001:db8:26::10"}, {"to", "2001:DB8:28:0::10"}, {"ttl", 5'000}});
    return desired;
  }
  Json lower_ttl() const {
    auto desired = base("ttl");
    desired.update({{"value", "192.0.2.10"}, {"ttl", 5'000}, {"from_ttl", 300'000}});
    return desired;
  }
  Json with_key(Json desired, const std::string& file) const {
    desired["key_file"] = (dir_ / file).string();
    return desired;
  }
  Json apply(const Json& desired) {
    auto done = mover_->apply(context(), desired);
    EXPECT_TRUE(done) << done.error().text();
    return done.value_or(Json::object());
  }
  void undo(const Json& desired) {
    const auto done = mover_->undo(context(), desired);
    EXPECT_TRUE(done) << done.error().text();
  }
  Json observe(const Json& desired) {
    auto seen = mover_->observe(context(), desired);
    EXPECT_TRUE(seen) << seen.error().text();
    return seen.value_or(Json::object());
  }
  dns::Answer answer(const std::string& address, const std::string& name, Type type) {
    return dns::ask({address, 53}, name, type, Deadline::in(Millis(3'000)), {}).value();
  }
  // "value ttl" of the A record at `address`.
  std::string held(const std::string& address = "127.0.0.1", Type type = Type::a) {
    const auto now = answer(address, "shop.prod.example.", type);
    return (now.values.empty() ? "absent" : now.values[0]) + " " + std::to_string(now.ttl);
  }
  std::string epoch_record() {
    const auto now = answer("127.0.0.1", "_midstream.shop.prod.example.", Type::txt);
    return now.values.empty() ? "" : now.values[0];
  }
  std::string serial() { return answer("127.0.0.1", "prod.example.", Type::soa).values.at(0); }
  // What somebody else does with a key of their own.
  void set_by_hand(const std::string& value) {
    dns::Update update{"prod.example.", {}, {{"shop.prod.example.", Type::a, {value}, 300}}, {}};
    const auto done =
        dns::send_update({"127.0.0.1", 53}, update, dns::load_key_file(dir_ / "long.key").value(),
                         Deadline::in(Millis(3'000)), {});
    ASSERT_TRUE(done) << done.error().text();
    ASSERT_EQ(*done, "NOERROR");
  }
  std::map<std::string, std::string> failures(const Json& desired) {
    std::map<std::string, std::string> out;
    const auto findings = mover_->check(context(), desired);
    EXPECT_TRUE(findings) << findings.error().text();
    for (const auto& finding : findings.value_or(Json::array())) {
      if (!finding["ok"])
        out[finding["what"]] =
            finding["detail"].get<std::string>() + " / " + finding["todo"].get<std::string>();
    }
    return out;
  }

  static inline bool isolated_ = false;
  fs::path dir_;
  pid_t primary_ = -1;
  pid_t secondary_ = -1;
  NoPeers peers_;
  std::unique_ptr<Mover> mover_ = make_names_mover();
};

TEST_F(NamesLab, ThereAndBackLeavesNothing) {
  EXPECT_EQ(failures(lower_ttl()), (std::map<std::string, std::string>{}));
  EXPECT_EQ(failures(repoint("AAAA")), (std::map<std::string, std::string>{}));
  EXPECT_EQ(serial(), "1");  // a check changes nothing
  EXPECT_EQ(observe(lower_ttl())["ttl_ms"], 300'000);

  apply(lower_ttl());
  EXPECT_EQ(held(), "192.0.2.10 5");
  EXPECT_EQ(epoch_record(), "autumn 1 step");
  EXPECT_EQ(observe(repoint())["reached"], false);
  const auto done = apply(repoint());
  EXPECT_EQ(done["changed"], true);
  for (const auto* server : {"127.0.0.1", "127.0.0.2", "::1"})
    EXPECT_EQ(held(server), "198.51.100.10 5") << server;
  const auto seen = observe(repoint());
  EXPECT_EQ(seen["reached"], true) << seen.dump();
  EXPECT_EQ(mover_->observe_undo(context(1), repoint()).value()["possible"], true);
  auto nobody = repoint();
  nobody["port"] = 1;
  EXPECT_EQ(mover_->observe_undo(context(1), nobody).value()["possible"], false);
  ASSERT_EQ(seen["servers"].size(), 4u) << seen.dump();
  EXPECT_TRUE(seen["servers"][3].contains("skipped")) << seen.dump();

  undo(repoint());
  EXPECT_EQ(held("127.0.0.2"), "192.0.2.10 5");
  EXPECT_NE(epoch_record(), "");
  undo(lower_ttl());
  undo(lower_ttl());
  EXPECT_EQ(held("127.0.0.2"), "192.0.2.10 300");
  EXPECT_EQ(epoch_record(), "");
}

TEST_F(NamesLab, RepeatingAnythingIsHarmless) {
  undo(repoint());  // before anything was applied
  EXPECT_EQ(serial(), "1");
  apply(repoint());
  const auto after = serial();
  EXPECT_EQ(apply(repoint())["changed"], false);
  EXPECT_EQ(serial(), after);
}

TEST_F(NamesLab, AnAnswerThatIsLostLeavesItUnknownAndTheNextApplyFindsIt) {
  const Relay relay(Relay::Spoil::drop);
  auto desired = repoint();
  desired["server"] = "127.0.0.3";
  const auto done = mover_->apply(context(), desired);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::unknown) << done.error().text();
  EXPECT_EQ(held(), "198.51.100.10 5");
  EXPECT_EQ(apply(repoint())["changed"], false);
  undo(repoint());
  EXPECT_EQ(held("127.0.0.2"), "192.0.2.10 5");
}

TEST_F(NamesLab, AnAnswerThatIsNotTheServersIsNotBelieved) {
  const Relay relay(Relay::Spoil::tamper);
  auto desired = repoint();
  desired["server"] = "127.0.0.3";
  const auto done = mover_->apply(context(), desired);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::unknown);
  EXPECT_NE(done.error().what.find("signature"), std::string::npos) << done.error().text();
}

TEST_F(NamesLab, WrongKeysChangeNothingAndSayWhich) {
  for (const auto& [file, word] :
       {std::pair("other-secret.key", "BADSIG"), std::pair("unknown.key", "BADKEY"),
        std::pair("narrow.key", "REFUSED"), std::pair("none.key", "none.key")}) {
    const auto done = mover_->apply(context(), with_key(repoint(), file));
    ASSERT_FALSE(done) << file;
    EXPECT_EQ(done.error().kind, ErrorKind::refused);
    EXPECT_NE(done.error().text().find(word), std::string::npos) << done.error().text();
    EXPECT_EQ(done.error().text().find("EEEE"), std::string::npos);
    const auto found = failures(with_key(repoint(), file));
    ASSERT_EQ(found.size(), 1u) << file;
    EXPECT_NE(found.begin()->second.find(word), std::string::npos) << found.begin()->second;
  }
  EXPECT_EQ(serial(), "1");
  EXPECT_EQ(apply(with_key(repoint(), "long.key"))["changed"], true);  // hmac-sha512
}

TEST_F(NamesLab, AClockThatIsWrongIsSaidToBe) {
  clock_error_s = -3600;
  const auto done = mover_->apply(context(), repoint());
  const auto found = failures(repoint());
  clock_error_s = 0;
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::refused);
  EXPECT_NE(done.error().what.find("BADTIME"), std::string::npos) << done.error().text();
  EXPECT_NE(done.error().what.find(format_wall(wall_now_ms()).substr(0, 11)), std::string::npos)
      << done.error().text();
  EXPECT_EQ(found.size(), 1u);
  EXPECT_EQ(serial(), "1");
}

TEST_F(NamesLab, ARecordThatIsNotWhatWasExpectedIsLeftAlone) {
  set_by_hand("192.0.2.99");
  const auto before = serial();
  const auto done = mover_->apply(context(), repoint());
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::refused);
  EXPECT_NE(done.error().what.find("it is 192.0.2.99, not 192.0.2.10"), std::string::npos)
      << done.error().text();
  EXPECT_EQ(serial(), before);
  EXPECT_TRUE(failures(repoint()).contains("A shop.prod.example. is 192.0.2.10"));

  auto desired = repoint();
  desired["name"] = "www.prod.example.";
  const auto alias = mover_->apply(context(), desired);
  ASSERT_FALSE(alias);
  EXPECT_NE(alias.error().what.find("alias of shop.prod.example."), std::string::npos)
      << alias.error().text();
  desired["zone"] = "other.example.";
  EXPECT_FALSE(mover_->apply(context(), desired));
}

TEST_F(NamesLab, ASecondaryThatLagsIsWaitedForAndOneThatIsGoneIsNamed) {
  ::kill(secondary_, SIGSTOP);
  {
    std::jthread later([this] {
      pause_for(Millis(700), {});
      ::kill(secondary_, SIGCONT);
    });
    apply(repoint());
  }
  EXPECT_EQ(held("127.0.0.2"), "198.51.100.10 5");

  stop(secondary_);
  const auto done = mover_->undo(context(1, 1'500), repoint());
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::retry);
  EXPECT_NE(done.error().what.find("ns2.prod.example. (127.0.0.2)"), std::string::npos)
      << done.error().text();
  EXPECT_EQ(held(), "192.0.2.10 5");
  EXPECT_EQ(observe(repoint())["reached"], false);
  EXPECT_FALSE(failures(repoint()).empty());
  start_secondary();
  undo(repoint());
  EXPECT_EQ(held("127.0.0.2"), "192.0.2.10 5");
}

TEST_F(NamesLab, TheEpochRecordKeepsOthersOut) {
  ASSERT_TRUE(mover_->apply(context(2), repoint()));
  EXPECT_EQ(epoch_record(), "autumn 2 step");
  const auto stale = mover_->undo(context(1), repoint());
  ASSERT_FALSE(stale);
  EXPECT_EQ(stale.error().kind, ErrorKind::fenced) << stale.error().text();
  auto other = repoint();
  std::swap(other["from"], other["to"]);
  const auto foreign = mover_->apply(context(9, 8'000, "winter"), other);
  ASSERT_FALSE(foreign);
  EXPECT_EQ(foreign.error().kind, ErrorKind::refused);
  EXPECT_EQ(held(), "198.51.100.10 5");

  // An update of the past, as a delayed duplicate would be, has no effect: its prerequisites are gone.
  ASSERT_TRUE(mover_->undo(context(3), repoint()));
  dns::Update late{"prod.example.",
                   {{"shop.prod.example.", Type::a, {"192.0.2.10"}, 0},
                    {"_midstream.shop.prod.example.", Type::txt, {}, 0}},
                   {{"shop.prod.example.", Type::a, {"198.51.100.10"}, 5}},
                   {}};
  const auto done = dns::send_update({"127.0.0.1", 53}, late, dns::load_key_file(dir_ / "good.key").value(),
                                     Deadline::in(Millis(3'000)), {});
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(*done, "YXRRSET");

  const auto ended = mover_->apply(context(3), base("end"));
  ASSERT_TRUE(ended) << ended.error().text();
  EXPECT_EQ(epoch_record(), "");
  EXPECT_EQ(observe(base("end"))["reached"], true);
}

TEST_F(NamesLab, BothFamiliesShareTheEpochRecord) {
  apply(repoint("A"));
  apply(repoint("AAAA"));
  EXPECT_EQ(held("127.0.0.2", Type::aaaa), "2001:db8:28::10 5");
  auto home4 = repoint("A");
  std::swap(home4["from"], home4["to"]);
  home4["ttl"] = 300'000;
  apply(home4);
  EXPECT_NE(epoch_record(), "");
  auto home6 = repoint("AAAA");
  std::swap(home6["from"], home6["to"]);
  home6["ttl"] = 300'000;
  apply(home6);
  EXPECT_EQ(held("127.0.0.2", Type::aaaa), "2001:db8:26::10 300");
  EXPECT_EQ(epoch_record(), "");
}

TEST_F(NamesLab, TheClockStartsWhenAllAgreeAndStartsAgainAfterAChange) {
  auto clock = base("expired");
  clock.update({{"value", "198.51.100.10"}, {"ttl", 400}});
  const auto early = mover_->apply(context(), clock);
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().kind, ErrorKind::retry);
  apply(repoint());
  EXPECT_EQ(observe(clock)["reached"], false);
  EXPECT_EQ(observe(clock)["left_ms"], 400);
  apply(clock);
  EXPECT_EQ(observe(clock)["reached"], false);
  const auto until = Deadline::in(Millis(5'000));
  while (observe(clock)["reached"] == false && !until.expired()) pause_for(Millis(20), {});
  EXPECT_EQ(observe(clock)["left_ms"], 0);
  apply(clock);  // does not start it again
  EXPECT_EQ(observe(clock)["reached"], true);

  undo(repoint());
  apply(repoint());
  EXPECT_EQ(observe(clock)["left_ms"], 400);
  undo(clock);
}

}  // namespace
}  // namespace midstream
