// Against a real server in a network namespace of its own.
#include <gtest/gtest.h>
#include <pwd.h>

#include <filesystem>
#include <fstream>

#include "probe/outcome.h"
#include "probe/testing.h"
#include "sys/child.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;
const std::string kBin = "/usr/lib/postgresql/15/bin/";

class Postgres : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for a network namespace and another user";
    const auto* user = ::getpwnam("postgres");
    if (user == nullptr || !fs::exists(kBin + "initdb")) GTEST_SKIP() << "needs PostgreSQL 15 on this host";
    ASSERT_TRUE(island_.enter());
    island_.lo(true);
    ASSERT_EQ(::chown(scratch_.path().c_str(), user->pw_uid, user->pw_gid), 0);
    data_ = scratch_ / "data";
    std::ofstream(scratch_ / "superuser") << "s3cret\n";
    const auto made = run({kBin + "initdb", "--no-sync", "-A", "scram-sha-256", "--pwfile", scratch_ / "superuser", "-D", data_});
    ASSERT_EQ(made.code, 0) << made.err;
    start();
    ASSERT_EQ(sql("CREATE TABLE probe(n bigint primary key, at timestamptz); CREATE ROLE app LOGIN PASSWORD 'w0rd';"
                  "GRANT SELECT, INSERT, UPDATE ON probe TO app").code, 0);
    std::ofstream(scratch_ / "pass") << "localhost:5432:*:app:w0rd\n";
    fs::permissions(scratch_ / "pass", fs::perms::owner_read | fs::perms::owner_write);
  }
  void TearDown() override {
    if (!data_.empty()) (void)run({kBin + "pg_ctl", "-D", data_, "-m", "immediate", "-w", "stop"});
  }

  Exit run(std::vector<std::string> command) const {
    std::vector<std::string> argv{"runuser", "-u", "postgres", "--"};
    argv.insert(argv.end(), command.begin(), command.end());
    auto exit = run_child(argv, "", Deadline::in(Millis(60'000)));
    return exit ? *exit : Exit{.code = 255, .err = exit.error().text()};
  }
  void start() const {
    const std::string options = "-c listen_addresses=127.0.0.1 -c fsync=off -k " + scratch_.path().string();
    const auto exit = run({kBin + "pg_ctl", "-D", data_, "-w", "-l", scratch_ / "log", "-o", options, "start"});
    ASSERT_EQ(exit.code, 0) << exit.err;
  }
  void stop() const { ASSERT_EQ(run({kBin + "pg_ctl", "-D", data_, "-m", "fast", "-w", "stop"}).code, 0); }
  Exit sql(const std::string& text) const {
    return run({"env", "PGPASSWORD=s3cret", "psql", "-X", "-At", "-h", scratch_.path(), "-c", text});
  }
  std::unique_ptr<Prober> prober(bool write) {
    auto made = make_postgres_prober({.name = "db", .kind = "postgres", .target = "host=localhost dbname=postgres user=app",
                                      .write = write, .password_file = scratch_ / "pass"}, resolver_);
    EXPECT_TRUE(made) << made.error().text();
    return made ? std::move(*made) : nullptr;
  }
  static Finding find(Prober& prober, int timeout_ms = 5'000) { return prober.probe(Deadline::in(Millis(timeout_ms)), {}); }

  Island island_;
  Scratch scratch_;
  fs::path data_;
  Resolver resolver_;
};

TEST_F(Postgres, FindsWhatUsersWithAPoolHave) {
  const auto write = prober(true);
  const auto read = prober(false);
  ASSERT_TRUE(write && read);
  for (int i = 0; i < 3; ++i) {
    const auto finding = find(*write);
    EXPECT_EQ(finding.outcome, ProbeOutcome::ok) << finding.error;
    EXPECT_EQ(finding.error, "");
    EXPECT_EQ(finding.host, "127.0.0.1:5432");
  }
  EXPECT_EQ(find(*read).outcome, ProbeOutcome::ok);
  EXPECT_EQ(sql("SELECT count(*) FROM probe").out, "3\n");
  EXPECT_EQ(sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").out, "2\n");  // kept, one each

  // Ended by the server: the next probe gets itself another connection.
  EXPECT_EQ(sql("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = 'app'").out, "2\n");
  const auto again = find(*write);
  EXPECT_EQ(again.outcome, ProbeOutcome::ok);
  EXPECT_EQ(again.error, "reconnected");
  EXPECT_EQ(find(*write).error, "");

  // A fence speaks about the statement: that is a failure at once, and the connection is kept.
  ASSERT_EQ(sql("REVOKE INSERT ON probe FROM app").code, 0);
  const auto fenced = find(*write);
  EXPECT_EQ(fenced.outcome, ProbeOutcome::failed);
  EXPECT_EQ(fenced.error, "sql-42501");
  ASSERT_EQ(sql("GRANT INSERT ON probe TO app").code, 0);
  EXPECT_EQ(find(*write).outcome, ProbeOutcome::ok);

  // Held: a timeout, and the next probe is not stuck behind it.
  ASSERT_EQ(sql("ALTER TABLE probe ADD COLUMN x int").code, 0);
  Child holder = *Child::start({"runuser", "-u", "postgres", "--", "env", "PGPASSWORD=s3cret", "psql", "-X", "-q", "-h", scratch_.path()});
  constexpr std::string_view kHold = "BEGIN; LOCK TABLE probe; \\echo held\n";
  ASSERT_EQ(::write(holder.in(), kHold.data(), kHold.size()), static_cast<ssize_t>(kHold.size()));
  char answer[5];
  ASSERT_EQ(::read(holder.out(), answer, sizeof answer), 5);
  EXPECT_EQ(find(*write, 200).outcome, ProbeOutcome::timeout);
  EXPECT_EQ(find(*read, 5'000).outcome, ProbeOutcome::ok);
  holder.kill();

  // Gone: failed within the timeout. Back: found again.
  stop();
  const auto gone = find(*write, 300);
  EXPECT_FALSE(is_up(gone.outcome));
  start();
  EXPECT_EQ(find(*write).outcome, ProbeOutcome::ok);
}

TEST(PostgresConfig, APasswordInTheTargetIsRefusedAndNotRepeated) {
  Resolver resolver;
  for (const auto* target : {"host=h password=hunter2", "postgresql://u:hunter2@h/db", "host='hunter2"}) {
    const auto made = make_postgres_prober({.name = "db", .kind = "postgres", .target = target}, resolver);
    ASSERT_FALSE(made) << target;
    EXPECT_EQ(made.error().text().find("hunter2"), std::string::npos);
  }
}

}  // namespace
}  // namespace midstream
