// Against a real Postfix and a real Dovecot in a network namespace of its own.
#include <gtest/gtest.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <future>

#include "probe/outcome.h"
#include "probe/testing.h"
#include "sys/child.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

class Mail : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for a network namespace and other users";
    if (!fs::exists("/usr/sbin/postfix") || !fs::exists("/usr/sbin/dovecot"))
      GTEST_SKIP() << "needs Postfix and Dovecot on this host";
    ASSERT_TRUE(island_.enter());
    island_.lo(true);
    fs::permissions(scratch_.path(), fs::perms(0755));
    const auto made = run({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                           "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout",
                           (scratch_ / "key.pem").string(), "-out", (scratch_ / "cert.pem").string()});
    ASSERT_EQ(made.code, 0) << made.err;
    ::setenv("SSL_CERT_FILE", (scratch_ / "cert.pem").c_str(), 1);
    std::ofstream(scratch_ / "login") << "probe@test.example s3\"cr\\et\n";
    std::ofstream(scratch_ / "wrong") << "probe@test.example wrong\n";
    start_dovecot();
    start_postfix();
  }
  void TearDown() override {
    ::unsetenv("SSL_CERT_FILE");
    stop(postfix_daemon_);
    stop(dovecot_daemon_);
  }

  static Exit run(const std::vector<std::string>& argv) {
    auto exit = run_child(argv, "", Deadline::in(Millis(20'000)));
    return exit ? *exit : Exit{.code = 255, .err = exit.error().text()};
  }

  // In the foreground, so that the daemon goes with this test, and its children with it.
  static void start(std::optional<Child>& daemon, std::vector<std::string> argv, std::uint16_t port) {
    argv.insert(argv.begin(), {"setpriv", "--pdeathsig", "KILL"});
    auto started = Child::start(argv);
    ASSERT_TRUE(started) << started.error().text();
    daemon = std::move(*started);
    ASSERT_TRUE(eventually([&] { return connect_tcp("127.0.0.1", port, Deadline::in(Millis(1'000))).has_value(); }))
        << argv[0];
  }
  static void stop(std::optional<Child>& daemon) {
    if (!daemon) return;
    ::kill(daemon->pid(), SIGTERM);
    // Its children have our pipe too: its end is theirs.
    EXPECT_TRUE(wait_fd(daemon->out(), POLLIN, Deadline::in(Millis(10'000)), {}));
    daemon.reset();
  }

  void start_dovecot() {
    const auto at = scratch_.path().string();
    fs::create_directories(scratch_ / "home");
    ASSERT_EQ(::chown((scratch_ / "home").c_str(), 1'000'000, 1'000'000), 0);
    std::ofstream(scratch_ / "users") << "probe@test.example:{PLAIN}s3\"cr\\et:1000000:1000000::" << at << "/home::\n";
    dovecot_ = (scratch_ / "dovecot.conf").string();
    std::ofstream(scratch_ / "dovecot.conf")
        << "base_dir = " << at << "/run\nstate_dir = " << at << "/run\nlog_path = " << at
        << "/dovecot.log\nprotocols = imap\nlisten = 127.0.0.1\n"
        << "ssl = required\nssl_cert = <" << at << "/cert.pem\nssl_key = <" << at
        << "/key.pem\nmail_location = maildir:~/Maildir\n"
        << "passdb {\n driver = passwd-file\n args = " << at
        << "/users\n}\nuserdb {\n driver = passwd-file\n args = " << at << "/users\n}\n"
        << "service auth {\n unix_listener " << at << "/auth {\n mode = 0666\n }\n}\n";
    start(dovecot_daemon_, {"dovecot", "-F", "-c", dovecot_}, 993);
  }

  void start_postfix() {
    const auto at = scratch_.path().string();
    postfix_ = (scratch_ / "postfix").string();
    fs::create_directories(scratch_ / "postfix");
    fs::create_directories(scratch_ / "spool");
    fs::create_directories(scratch_ / "data");
    const auto* user = ::getpwnam("postfix");
    ASSERT_NE(user, nullptr);
    ASSERT_EQ(::chown((scratch_ / "data").c_str(), user->pw_uid, user->pw_gid), 0);
    for (const char* file : {"postfix-files", "dynamicmaps.cf", "post-install", "postfix-script"}) {
      if (fs::exists(fs::path("/etc/postfix") / file))
        fs::copy_file(fs::path("/etc/postfix") / file, scratch_.path() / "postfix" / file);
    }
    std::ofstream(postfix_ + "/main.cf")
        << "compatibility_level = 3.6\nqueue_directory = " << at << "/spool\ndata_directory = " << at << "/data\n"
        << "meta_directory = " << postfix_
        << "\nmyhostname = localhost\nmydestination = localhost, test.example\ninet_interfaces = 127.0.0.1\n"
        << "inet_protocols = ipv4\nlocal_recipient_maps =\nalias_maps =\nalias_database =\nmynetworks =\n"
        << "smtpd_peername_lookup = no\nmaillog_file_prefixes = " << at << "\nmaillog_file = " << at << "/postfix.log\n"
        << "smtpd_tls_cert_file = " << at << "/cert.pem\nsmtpd_tls_key_file = " << at << "/key.pem\n"
        << "smtpd_sasl_type = dovecot\nsmtpd_sasl_path = " << at << "/auth\nsmtpd_error_sleep_time = 0\n";
    std::ofstream(postfix_ + "/master.cf")
        << "smtp inet n - n - - smtpd\n587 inet n - n - - smtpd\n -o smtpd_tls_security_level=encrypt\n -o "
           "smtpd_sasl_auth_enable=yes\n"
        << " -o smtpd_relay_restrictions=permit_sasl_authenticated,reject\ncleanup unix n - n - 0 cleanup\nqmgr unix n "
           "- n 300 1 qmgr\n"
        << "tlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\nproxymap unix - - n - - "
           "proxymap\nanvil unix - - n - 1 anvil\n"
        << "bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\nerror unix - - n - - error\nlocal unix - n n - "
           "- local\nsmtp unix - - n - - smtp\n"
        << "pickup unix n - n 60 1 pickup\nshowq unix n - n - - showq\npostlog unix-dgram n - n - 1 postlogd\n";
    ASSERT_EQ(run({"postfix", "-c", postfix_, "check"}).code, 0);
    start(postfix_daemon_, {"/usr/lib/postfix/sbin/master", "-d", "-c", postfix_}, 25);
  }
  // Changes a setting and has Postfix take it.
  void set(const std::string& setting) const {
    ASSERT_EQ(run({"postconf", "-c", postfix_, "-e", setting}).code, 0);
    ASSERT_EQ(run({"postfix", "-c", postfix_, "reload"}).code, 0);
  }

  std::unique_ptr<Prober> prober(const std::string& target, const char* login = "login") {
    auto made = make_mail_prober({.name = "mail",
                                  .kind = "mail",
                                  .target = target,
                                  .password_file = login == nullptr ? "" : (scratch_ / login).string()},
                                 resolver_);
    EXPECT_TRUE(made) << made.error().text();
    return made ? std::move(*made) : nullptr;
  }
  Finding find(const std::string& target, const char* login = "login", int timeout_ms = 10'000) {
    const auto made = prober(target, login);
    return made ? made->probe(Deadline::in(Millis(timeout_ms)), {}) : Finding{};
  }

  Island island_;
  Scratch scratch_;
  std::string dovecot_, postfix_;  // configuration
  std::optional<Child> dovecot_daemon_, postfix_daemon_;
  Resolver resolver_;
};

TEST_F(Mail, EveryDoorIsOpen) {
  const auto all = find("smtp=localhost:25 submission=localhost:587 imap=localhost:993");
  EXPECT_EQ(all.outcome, ProbeOutcome::ok) << all.error;
  EXPECT_EQ(all.error, "");
  for (const char* one : {"imap=localhost:143", "imap=127.0.0.1:143"}) {
    const auto finding = find(one);
    const bool right_name = std::string(one).contains("localhost");
    EXPECT_EQ(finding.outcome, right_name ? ProbeOutcome::ok : ProbeOutcome::failed) << one << " " << finding.error;
    if (!right_name) {
      EXPECT_EQ(finding.error, "certificate");
    }
  }
  const auto unnamed = find("submission=localhost:587 imap=localhost:143", nullptr);
  EXPECT_EQ(unnamed.outcome, ProbeOutcome::ok) << unnamed.error;
  // Nothing was sent by any of it.
  EXPECT_FALSE(fs::exists(scratch_.path() / "home/Maildir/new") && !fs::is_empty(scratch_.path() / "home/Maildir/new"));
}

TEST_F(Mail, APermanentNoIsAFailureAtOnce) {
  const auto began = boot_now();
  EXPECT_EQ(find("submission=localhost:587", "wrong").error, "smtp-535");
  EXPECT_EQ(find("imap=localhost:993", "wrong").error, "imap-auth");
  set("smtpd_recipient_restrictions = reject");
  ASSERT_TRUE(eventually([&] { return find("smtp=localhost:25").error == "smtp-554"; }));
  EXPECT_EQ(find("smtp=localhost:26").error, "refused");
  EXPECT_EQ(find("smtp=localhost:26").outcome, ProbeOutcome::failed);
  EXPECT_LT(boot_now() - began, std::chrono::seconds(15));  // Dovecot keeps who has a wrong password waiting
}

TEST_F(Mail, ADeferralThatEndsIsAPause) {
  set("smtpd_recipient_restrictions = defer");
  ASSERT_TRUE(eventually([&] { return find("smtp=localhost:25", "login", 300).error == "smtp-450"; }));
  const auto short_one = find("smtp=localhost:25", "login", 600);
  EXPECT_EQ(short_one.outcome, ProbeOutcome::failed);  // nobody is served for as long as a client waits: down
  std::jthread mend([&] {
    pause_for(Millis(700), {});
    set("smtpd_recipient_restrictions =");
  });
  const auto began = boot_now();
  const auto finding = find("smtp=localhost:25");
  EXPECT_EQ(finding.outcome, ProbeOutcome::ok) << finding.error;
  EXPECT_EQ(finding.error, "deferred");
  EXPECT_GE(boot_now() - began, Millis(600));
}

// A server that says BYE to whoever comes, and then is gone.
TEST_F(Mail, AByeWithAReconnectIsAPause) {
  stop(dovecot_daemon_);
  auto listener = listen_tcp("127.0.0.1", 993 + 1000);
  ASSERT_TRUE(listener);
  auto probing = std::async(std::launch::async, [&] { return find("imap=localhost:1993"); });
  {
    const auto client = accept_one(listener->get(), {});
    ASSERT_TRUE(client);
    const std::string bye = "* BYE moving\r\n";
    ASSERT_EQ(::send(client->get(), bye.data(), bye.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bye.size()));
  }
  listener->reset();
  // Nobody listens for a while; then the real server is there, on that port.
  std::ofstream(dovecot_, std::ios::app) << "service imap-login {\n inet_listener imap {\n port = 1993\n }\n}\n";
  start(dovecot_daemon_, {"dovecot", "-F", "-c", dovecot_}, 1993);
  const auto finding = probing.get();
  EXPECT_EQ(finding.outcome, ProbeOutcome::ok) << finding.error;
  EXPECT_EQ(finding.error, "reconnected");
}

TEST(MailTarget, SaysWhichDoors) {
  const auto doors = parse_mail_target("smtp=mx.example:25 imap=[2001:db8::1]:993");
  ASSERT_TRUE(doors);
  ASSERT_EQ(doors->size(), 2u);
  EXPECT_EQ((*doors)[1].protocol, "imap");
  EXPECT_EQ((*doors)[1].at.host, "2001:db8::1");
  for (const char* bad : {"", "smtp", "smtp=", "pop=h:110", "smtp=h:25 smtp=h:26", "smtp=h:25  imap=h:1"})
    EXPECT_FALSE(parse_mail_target(bad)) << bad;
}

TEST(MailLogin, IsOneLineAndNeverInAMessage) {
  const Scratch scratch;
  Resolver resolver;
  for (const char* bad : {"", "user", "user ", " s3cret", "user s3cret\nmore"}) {
    std::ofstream(scratch / "login") << bad;
    const auto made = make_mail_prober(
        {.name = "mail", .kind = "mail", .target = "imap=h:1", .password_file = scratch / "login"}, resolver);
    ASSERT_FALSE(made) << bad;
    EXPECT_FALSE(made.error().text().contains("s3cret"));
  }
}

}  // namespace
}  // namespace midstream
