// The checker is seen to fail: a small real move is made, between two real PostgreSQL clusters with their own
// replication, two directories, and two hosts on a real bridge; the checker passes it; then one fault at a
// time is planted, and the checker must name it. Needs root, PostgreSQL 15 and iproute2.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/text.h"
#include "lab/checker/collect.h"
#include "lab/checker/judge.h"
#include "lab/workload/ledger.h"
#include "lab/workload/orders.h"
#include "lab/workload/sha256.h"
#include "lab/workload/shelf.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::lab {
namespace {

constexpr std::string_view kPrograms = "/usr/lib/postgresql/15/bin/";
constexpr std::string_view kMoving = "192.0.2.10";

#define MUST(expression)                                                           \
  __extension__({                                                                  \
    auto must_ = (expression);                                                     \
    if (!must_) throw std::runtime_error(#expression ": " + must_.error().text()); \
    *std::move(must_);                                                             \
  })

void must_run(const std::vector<std::string>& argv) {
  const auto exit = MUST(run_child(argv, "", Deadline::in(Millis(60000))));
  if (exit.code != 0) throw std::runtime_error(join(argv, " ") + ": " + exit.err + exit.out);
}

template <class Ready>
void wait_until(std::string_view what, Ready ready) {
  const auto deadline = Deadline::in(Millis(30000));
  while (!ready()) {
    if (deadline.expired()) throw std::runtime_error("waited in vain for " + std::string(what));
    pause_for(Millis(10), {});
  }
}

std::vector<std::string> as_postgres(const std::string& program, const std::vector<std::string>& arguments) {
  std::vector<std::string> argv{"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups",
                                std::string(kPrograms) + program};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return argv;
}

// A cluster of its own in `home`, reachable over a socket there and in no other way.
class Cluster {
 public:
  explicit Cluster(std::filesystem::path home) : home_(std::move(home)) {
    std::filesystem::create_directories(home_);
    must_run({"chown", "postgres", home_.string()});
    must_run(as_postgres("initdb", {"-D", data(), "-A", "trust", "--no-sync"}));
    std::ofstream(data() + "/postgresql.conf", std::ios::app)
        << "listen_addresses=''\nunix_socket_directories='" << home_.string()
        << "'\nfsync=off\nwal_level=logical\ntrack_commit_timestamp=on\nshared_buffers=16MB\n";
    must_run(as_postgres("pg_ctl", {"-D", data(), "-w", "-l", (home_ / "log").string(), "start"}));
    up_ = true;
    must_run({"psql", "-X", "-q", "-h", home_.string(), "-U", "postgres", "-c", "create role shop", "-c",
              "create database app owner shop"});
  }
  ~Cluster() {
    if (up_)
      (void)run_child(as_postgres("pg_ctl", {"-D", data(), "-m", "immediate", "stop"}), "",
                      Deadline::in(Millis(30000)));
  }
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  std::string conninfo(const std::string& database = "app") const {
    return "host=" + home_.string() + " user=postgres dbname=" + database;
  }
  PgConnection connect(const std::string& database = "app") const {
    return MUST(PgConnection::connect(conninfo(database), {}, Deadline::in(Millis(10000)), {}));
  }
  Rows sql(const std::string& text, const std::string& database = "app") const {
    auto connection = connect(database);
    auto rows = connection.exec(text, {}, Deadline::in(Millis(30000)), {});
    if (!rows) throw std::runtime_error(text + ": " + rows.error().text());
    return *std::move(rows);
  }
  DatabaseCollection collect(const std::string& database = "app") const {
    std::ostringstream out;
    if (auto done = collect_database(conninfo(database), out); !done) throw std::runtime_error(done.error().text());
    return MUST(parse_database(out.str()));
  }
  // A copy of the database to plant faults in.
  void clone(const std::string& name) const {
    // A backend that has just been left may not have gone yet.
    wait_until("the others to leave the database",
               [&] { return sql("select 1 from pg_stat_activity where datname = 'app'", "postgres").rows.empty(); });
    sql("create database " + name + " template app", "postgres");
  }

 private:
  std::string data() const { return (home_ / "data").string(); }
  std::filesystem::path home_;
  bool up_ = false;
};

// A network namespace that lives as long as this, on a bridge of ours.
class Host {
 public:
  explicit Host(const std::string& name) : child_(MUST(Child::start({"unshare", "-n", "cat"}))) {
    const auto space = [](const std::string& who) { return std::filesystem::read_symlink("/proc/" + who + "/ns/net"); };
    wait_until("a namespace", [&] { return space(pid()) != space("self"); });
    must_run({"ip", "link", "add", "v" + name, "type", "veth", "peer", "name", "eth0", "netns", pid()});
    must_run({"ip", "link", "set", "v" + name, "master", "bridge", "up"});
    ip({"link", "set", "eth0", "up"});
  }
  void ip(std::vector<std::string> arguments) const {
    std::vector<std::string> argv{"nsenter", "-t", pid(), "-n", "ip"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    must_run(argv);
  }
  void add() const { ip({"address", "add", std::string(kMoving) + "/26", "dev", "eth0"}); }
  void remove() const { ip({"address", "del", std::string(kMoving) + "/26", "dev", "eth0"}); }

 private:
  std::string pid() const { return std::to_string(child_.pid()); }
  Child child_;
};

class Witness {
 public:
  explicit Witness(std::filesystem::path out)
      : out_(std::move(out)),
        child_(MUST(Child::start({LAB_WITNESS, "--out", out_.string(), "--iface", "bridge", "--ask",
                                  std::string(kMoving), "--from", "192.0.2.62", "--every", "20"}))) {
    wait_until("the witness", [&] { return std::filesystem::exists(out_) && std::filesystem::file_size(out_) > 0; });
  }
  Testimony so_far() const { return MUST(parse_testimony(MUST(read_file(out_)))); }
  // Waits until `count` more claims of the moving address have been seen.
  void hear(std::size_t count) const {
    const auto before = so_far().claims.size();
    wait_until("claims", [&] { return so_far().claims.size() >= before + count; });
  }
  Testimony end() {
    ::kill(child_.pid(), SIGTERM);
    wait_until("the witness's end", [&] { return so_far().ended; });
    return so_far();
  }

 private:
  std::filesystem::path out_;
  Child child_;
};

class Remover {
 public:
  explicit Remover(std::filesystem::path path) : path_(std::move(path)) {}
  ~Remover() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Remover(const Remover&) = delete;
  Remover& operator=(const Remover&) = delete;

 private:
  std::filesystem::path path_;
};

// Everything that a move has, on a small scale.
class Stage {
 public:
  Stage()
      : directory_(make_directory()),
        old_host_("old"),
        new_host_("new"),
        old_(directory_ / "old"),
        new_(directory_ / "new") {
    std::filesystem::create_directories(directory_ / "old-files");
    std::filesystem::create_directories(directory_ / "new-files");
  }
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  void make_move() {
    Witness witness(directory_ / "witness");
    ledger_ = MUST(Ledger::open(directory_ / "ledger", "c"));
    old_host_.add();
    must_run({"psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "owner=shop", "-d", old_.conninfo(), "-f", LAB_SCHEMA,
              "-o", "/dev/null"});
    for (int i = 0; i < 5; ++i) place(old_);
    for (int i = 0; i < 3; ++i) upload("old-files");
    witness.hear(3);
    follow();
    for (int i = 0; i < 5; ++i) place(old_);
    switch_database();
    must_run({"cp", "-a", (directory_ / "old-files/.").string(), (directory_ / "new-files").string()});
    old_host_.remove();
    new_host_.add();
    for (int i = 0; i < 5; ++i) place(new_);
    for (int i = 0; i < 3; ++i) upload("new-files");
    witness.hear(3);
    Record end;
    end.type = RecordType::end;
    MUST(ledger_->append(end));
    evidence_.testimony = witness.end();
    evidence_.ledgers = {MUST(parse_ledger(MUST(read_file(ledger_->path()))))};
    evidence_.old_database = old_.collect();
    evidence_.new_database = new_.collect();
    evidence_.old_files = files("old-files");
    evidence_.new_files = files("new-files");
  }

  Evidence evidence() const { return evidence_; }
  const Cluster& old_cluster() const { return old_; }
  const Cluster& new_cluster() const { return new_; }
  const Host& old_host() const { return old_host_; }
  const Host& new_host() const { return new_host_; }
  const std::filesystem::path& directory() const { return directory_; }

  std::vector<FileEntry> files(const std::string& name) const {
    std::ostringstream out;
    if (auto done = collect_files(directory_ / name, out); !done) throw std::runtime_error(done.error().text());
    return MUST(parse_files(out.str()));
  }

 private:
  // Before any member that needs it: the network of this process is its own from here on.
  static std::filesystem::path make_directory() {
    if (::unshare(CLONE_NEWNET) != 0) throw std::runtime_error("cannot make a network namespace");
    must_run({"ip", "link", "add", "bridge", "type", "bridge"});
    must_run({"ip", "link", "set", "bridge", "up"});
    char name[] = "/tmp/midstream-planted-XXXXXX";
    const std::filesystem::path path = ::mkdtemp(name);
    ::chmod(path.c_str(), 0755);
    return path;
  }

  Record attempt(OpKind kind) {
    Record record;
    record.type = RecordType::attempted;
    record.kind = kind;
    record.op = ledger_->next_op();
    record.key = ledger_->prefix() + std::to_string(record.op);
    record.tries = 1;
    return record;
  }

  void acknowledge(Record record) {
    record.type = RecordType::acknowledged;
    record.started_ns = boot_now().count();
    MUST(ledger_->append(record));
  }

  void place(const Cluster& cluster) {
    Record record = attempt(OpKind::db_order);
    record.customer = "customer-1";
    record.amount = 42;
    record.items = {"sku-1", "sku-2"};
    MUST(ledger_->append(record));
    auto connection = cluster.connect();
    record.id = MUST(place_order(connection, Order{record.key, record.customer, 42, record.items}, "direct",
                                 Deadline::in(Millis(10000)), {}))
                    .id;
    acknowledge(record);
  }

  void upload(const std::string& side) {
    Record record = attempt(OpKind::upload);
    const auto bytes = made_up_bytes(record.key, 3000);
    record.size = 3000;
    record.sha256 = sha256(bytes);
    MUST(ledger_->append(record));
    const auto shelf = MUST(Shelf::open(directory_ / side));
    if (auto put = shelf.put(record.key, bytes); !put) throw std::runtime_error(put.error().text());
    acknowledge(record);
  }

  // PostgreSQL's own replication, with its own copy: the commits of both must not be taken for local ones.
  void follow() {
    const auto dump =
        MUST(run_child({"pg_dump", "--schema-only", "-d", old_.conninfo()}, "", Deadline::in(Millis(60000))));
    const auto load = MUST(run_child({"psql", "-X", "-q", "-d", new_.conninfo(), "-o", "/dev/null"}, dump.out,
                                     Deadline::in(Millis(60000))));
    if (dump.code != 0 || load.code != 0)
      throw std::runtime_error("the schema was not carried over: " + dump.err + load.err);
    old_.sql("create publication forward for all tables");
    new_.sql("create subscription forward connection '" + old_.conninfo() + "' publication forward");
    wait_until("the copy",
               [&] { return new_.sql("select 1 from pg_subscription_rel where srsubstate <> 'r'").rows.empty(); });
  }

  void switch_database() {
    const auto wanted = old_.sql("select count(*) from orders").at(0, 0);
    wait_until("the last order", [&] { return new_.sql("select count(*) from orders").at(0, 0) == wanted; });
    wait_until("the last invoice", [&] { return new_.sql("select count(*) from invoices").at(0, 0) == wanted; });
    new_.sql("drop subscription forward");
    new_.sql("select setval('orders_id_seq', 10000), setval('invoice_numbers', 10000)");
  }

  const std::filesystem::path directory_;
  const Remover remover_{directory_};  // goes after the clusters, which stop by what is in there
  Host old_host_, new_host_;
  Cluster old_, new_;
  std::unique_ptr<Ledger> ledger_;
  Evidence evidence_;
};

class PlantedFaults : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() != 0) return;
    stage_ = std::make_unique<Stage>();
    stage_->make_move();
  }
  static void TearDownTestSuite() { stage_.reset(); }
  void SetUp() override {
    if (!stage_) GTEST_SKIP() << "needs root, for network namespaces and for a cluster's own user";
  }

  static Judgement run(const Evidence& evidence) { return judge(evidence, Terms()); }
  // The judgement with a fault in a copy of new's database.
  static Judgement with_fault(const std::string& name, const std::vector<std::string>& statements) {
    stage_->new_cluster().clone(name);
    for (const auto& statement : statements) stage_->new_cluster().sql(statement, name);
    auto evidence = stage_->evidence();
    evidence.new_database = stage_->new_cluster().collect(name);
    return run(evidence);
  }
  static std::string text(const Judgement& judgement) { return to_json(judgement).dump(2); }

  static std::unique_ptr<Stage> stage_;
};
std::unique_ptr<Stage> PlantedFaults::stage_;

TEST_F(PlantedFaults, WithoutOneTheMovePasses) {
  const auto judgement = run(stage_->evidence());
  EXPECT_EQ(judgement.verdict, Verdict::pass) << text(judgement);
  EXPECT_EQ(judgement.acknowledged_rows, 15);
  EXPECT_EQ(judgement.acknowledged_files, 6);
  EXPECT_EQ(judgement.addresses.at(std::string(kMoving)).owners.size(), 2u);
}

TEST_F(PlantedFaults, ARowRemoved) {
  const auto judgement =
      with_fault("removed", {"delete from order_lines where order_id = (select id from orders where key = 'c1-2')",
                             "delete from invoices where order_id = (select id from orders where key = 'c1-2')",
                             "delete from orders where key = 'c1-2'"});
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_EQ(judgement.lost, 1) << text(judgement);
}

TEST_F(PlantedFaults, ARowRemovedThatNoClientMade) {
  const auto judgement =
      with_fault("standing", {"delete from order_lines where order_id = 7", "delete from invoices where order_id = 7",
                              "delete from orders where id = 7"});
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_EQ(judgement.lost, 1) << text(judgement);
}

TEST_F(PlantedFaults, ARowDoubled) {
  const auto judgement =
      with_fault("doubled", {"alter table orders drop constraint orders_key_key",
                             "insert into orders (key, customer, amount, placed_by) "
                             "select key, customer, amount, placed_by from orders where key = 'c1-2'"});
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_EQ(judgement.doubled, 1) << text(judgement);
}

TEST_F(PlantedFaults, ARowAltered) {
  const auto judgement = with_fault("altered", {"update orders set amount = amount + 1 where key = 'c1-2'"});
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_EQ(judgement.lost, 1) << text(judgement);
}

TEST_F(PlantedFaults, AFileAlteredOrRemoved) {
  const auto name = stage_->evidence().new_files->back().path;
  const auto path = stage_->directory() / "new-files" / name;
  const auto bytes = MUST(read_file(path));
  auto altered = bytes;
  altered[1000] ^= 1;
  std::ofstream(path, std::ios::binary) << altered;
  auto evidence = stage_->evidence();
  evidence.new_files = stage_->files("new-files");
  auto judgement = run(evidence);
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_EQ(judgement.lost, 1) << text(judgement);

  std::filesystem::remove(path);
  evidence.new_files = stage_->files("new-files");
  judgement = run(evidence);
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_EQ(judgement.lost, 1) << text(judgement);
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST_F(PlantedFaults, AnAddressOnTwoHosts) {
  Witness witness(stage_->directory() / "second-witness");
  witness.hear(3);
  stage_->old_host().add();
  witness.hear(8);
  stage_->old_host().remove();
  witness.hear(3);
  auto evidence = stage_->evidence();
  evidence.testimony = witness.end();
  const auto judgement = run(evidence);
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_GE(judgement.two_owners_ms, 20) << text(judgement);
  EXPECT_EQ(judgement.lost, 0);
}

TEST_F(PlantedFaults, WritesOnBothSides) {
  stage_->old_cluster().clone("both_sides");
  stage_->old_cluster().sql("insert into probe (n) values (1)", "both_sides");
  auto evidence = stage_->evidence();
  evidence.old_database = stage_->old_cluster().collect("both_sides");
  const auto judgement = run(evidence);
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_GE(judgement.two_writers_ms, 1) << text(judgement);
  EXPECT_EQ(judgement.lost, 0);
}

TEST_F(PlantedFaults, AWitnessThatDied) {
  auto evidence = stage_->evidence();
  auto& beats = evidence.testimony->beats;
  ASSERT_GT(beats.size(), 2u);
  beats.resize(2);
  // The move of this test can be over within the gap that a whole move allows.
  Terms terms;
  terms.longest_gap_ns = 100'000'000;
  EXPECT_EQ(judge(evidence, terms).verdict, Verdict::unknown);
}

}  // namespace
}  // namespace midstream::lab
