#include "movers/postgres/live_clusters.h"

#include <fmt/format.h>
#include <pwd.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>

#include "movers/postgres/access.h"
#include "movers/postgres/as_user.h"
#include "sys/child.h"
#include "sys/file.h"
#include "sys/enclosed.h"

namespace midstream::postgres::test {

namespace {

constexpr const char* kShop = R"sql(
CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL, note text);
CREATE TABLE orders (id bigserial PRIMARY KEY, key bigint UNIQUE NOT NULL, customer int REFERENCES customers, body text,
  total numeric(10, 2) GENERATED ALWAYS AS (length(body) * 1.5) STORED);
CREATE TABLE stock (item int PRIMARY KEY, sold bigint NOT NULL);
CREATE TABLE events (at timestamptz, what text, detail jsonb);
ALTER TABLE events REPLICA IDENTITY FULL;
CREATE TABLE "Odd ""Name" (k text COLLATE "C" PRIMARY KEY, v bytea, a int[]);
CREATE TABLE logs (day int, n int, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM (0) TO (10);
CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM (10) TO (20);
CREATE UNLOGGED TABLE carts (id int PRIMARY KEY, what text, customer int REFERENCES customers);
CREATE TABLE visits (day int, customer int REFERENCES customers, PRIMARY KEY (day, customer)) PARTITION BY RANGE (day);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (100);
CREATE SEQUENCE tickets START 100 INCREMENT 5;
CREATE VIEW order_names AS SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.customer;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM customers;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := coalesce(NEW.note, 'stamped'); RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION stamp();
INSERT INTO customers (name) SELECT 'customer ' || g FROM generate_series(1, 500) g;
INSERT INTO stock SELECT g, 0 FROM generate_series(1, 5) g;
INSERT INTO events SELECT now(), 'made', '{"a": 1}' FROM generate_series(1, 20);
INSERT INTO "Odd ""Name" SELECT 'k' || g, decode(md5(g::text), 'hex'), ARRAY[g, NULL] FROM generate_series(1, 300) g;
INSERT INTO visits SELECT g, g FROM generate_series(1, 50) g;
INSERT INTO logs SELECT g % 20, g FROM generate_series(1, 400) g;
INSERT INTO carts (id, what) SELECT g, 'cart ' || g FROM generate_series(1, 30) g;
SELECT nextval('tickets');
SELECT lo_from_bytea(4711, '\x00ff10');
ALTER LARGE OBJECT 4711 OWNER TO shop_owner;
)sql";

bool as_server(const std::vector<std::string>& command) {
  std::vector<std::string> argv{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"};
  argv.insert(argv.end(), command.begin(), command.end());
  const auto exit = run_child(argv, "", Deadline::in(Millis(60'000)));
  if (!exit || exit->code != 0)
    fmt::print(stderr, "{} failed: {}\n", command[0], exit ? exit->err + exit->out : exit.error().text());
  return exit && exit->code == 0;
}

bool somebody_works_in(const std::filesystem::path& directory) {
  std::error_code ignored;
  for (const auto& process : std::filesystem::directory_iterator("/proc", ignored))
    if (std::filesystem::read_symlink(process.path() / "cwd", ignored) == directory) return true;
  return false;
}

constexpr const char* kPrograms = "/usr/lib/postgresql/15/bin/";

}  // namespace

Server::Server(std::filesystem::path directory, std::uint16_t port) : directory_(std::move(directory)), port_(port) {
  std::filesystem::create_directories(directory_);
  if (const passwd* who = ::getpwnam("postgres"); who != nullptr)
    if (::chown(directory_.c_str(), who->pw_uid, who->pw_gid) != 0) return;
}

bool Server::start() {
  const auto data = directory_ / "data";
  if (!std::filesystem::exists(data)) {
    if (!as_server({std::string(kPrograms) + "initdb", "-D", data, "-N", "--auth-local=peer",
                    "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"}))
      return false;
    const auto as = AsUser::enter("postgres");
    auto conf = read("postgresql.conf");
    conf += fmt::format(
        "port = {}\nunix_socket_directories = '{}'\nlisten_addresses = '127.0.0.1'\nwal_level = logical\n"
        "track_commit_timestamp = on\nlog_statement = all\nlog_min_duration_statement = 0\n"
        "log_connections = on\nwal_retrieve_retry_interval = 100ms\nmax_prepared_transactions = 4\n"
        "max_connections = 500\nmax_worker_processes = 16\nmax_logical_replication_workers = 12\n"
        "shared_buffers = 32MB\nmax_wal_size = 256MB\nlogging_collector = on\nlog_directory = '{}'\nlog_filename = "
        "log\n",
        port_, directory_.native(), directory_.native());
    if (!as || !write_file_durably(data / "postgresql.conf", conf)) return false;
  }
  auto child = Child::start({"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", std::string(kPrograms) + "postgres", "-D", data});
  if (!child) return false;
  running_.emplace(std::move(*child));
  for (const auto deadline = Deadline::in(Millis(20'000)); !deadline.expired(); pause_for(Millis(20), {}))
    if (sql("postgres", "SELECT 1") == "1") return true;
  return false;
}

bool Server::stop() {
  if (!running_) return true;
  ::kill(running_->pid(), SIGINT);  // "fast"
  const auto code = running_->wait(Deadline::in(Millis(30'000)));
  if (code) running_.reset();
  return code.has_value();
}

void Server::crash() { end(SIGQUIT); }  // "immediate": every process of the server ends where it stands

void Server::kill() { end(SIGKILL); }

void Server::end(int signal) {
  if (!running_) return;
  ::kill(running_->pid(), signal);
  siginfo_t how{};
  ::waitid(P_PID, static_cast<id_t>(running_->pid()), &how, WEXITED | WNOWAIT);
  running_.reset();
  // Its logger goes last, a moment after.
  for (const auto deadline = Deadline::in(Millis(10'000)); somebody_works_in(directory_ / "data") && !deadline.expired();) pause_for(Millis(5), {});
}

std::string Server::sql(const std::string& database, const std::string& text, bool through) {
  Session::Target target;
  target.host = directory_;
  target.port = port_;
  target.database = database;
  target.user = through ? "midstream_autumn-1" : "postgres";
  target.os_user = "postgres";
  target.application = "test";
  auto session = Session::connect(target, Deadline::in(Millis(10'000)), {});
  if (!session) return "ERROR " + session.error().text();
  (void)session->run("SET search_path = public", {}, Deadline::in(Millis(5'000)), {});
  auto rows = session->run(text, {}, Deadline::in(Millis(30'000)), {});
  if (!rows) return "ERROR " + rows.error().text();
  return rows->size() > 0 ? rows->text(0, 0) : "";
}

std::string Server::read(const std::string& name) const { return read_file(directory_ / "data" / name).value_or("?"); }
void Server::write(const std::string& name, const std::string& text) {
  const auto as = AsUser::enter("postgres");
  (void)write_file_durably(directory_ / "data" / name, text);
}
std::string Server::log() const { return read_file(directory_ / "log", 1u << 30).value_or("?"); }

Result<Json> Joined::call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args,
                          const Task& task, Deadline deadline, const std::stop_token& stop) {
  if (mover == "gate") return gate(verb, args);
  auto* side = sides.at(host);
  if (cut) return failure(ErrorKind::unknown, "the link is cut");
  auto answer = side->mover->peer(Context{task, host, side->state, *this, deadline, stop}, verb, args);
  if (cut) return failure(ErrorKind::unknown, "the link is cut");
  return answer;
}

Result<std::unique_ptr<Stream>> Joined::open(const std::string&, std::string_view, const Json&, const Task&, Deadline,
                                             const std::stop_token&) {
  return refused("no streams here");
}

World& World::get() {
  static World world;
  return world;
}

World::World() {
  if (!midstream::test::enclosed() || ::getpwnam("postgres") == nullptr || !std::filesystem::exists(kPrograms)) return;
  auto name = (std::filesystem::temp_directory_path() / "midstream-postgres-XXXXXX").native();
  if (::mkdtemp(name.data()) == nullptr) return;
  root_ = name;
  std::filesystem::permissions(root_, std::filesystem::perms(0755));
  old_ = std::make_unique<Server>(root_ / "old", 5501);
  new_ = std::make_unique<Server>(root_ / "new", 5502);
  usable_ = old_->start() && new_->start();
  old_side_.host = "alpha";
  new_side_.host = "beta";
  old_side_.options.socket_dir = root_ / "old";
  new_side_.options.socket_dir = root_ / "new";
  for (auto* side : {&old_side_, &new_side_}) side->options.holder = {MIDSTREAM_PROGRAMS "/midstream-agent", "hold-snapshot"};
  const auto supervised = [](Server& server) {
    return [&server](bool up) -> Result<> {
      if (up ? server.running() || server.start() : server.stop()) return {};
      return retry(up ? "the server does not start" : "the server does not stop");
    };
  };
  old_side_.options.server = supervised(*old_);
  new_side_.options.server = supervised(*new_);
  joined_.sides = {{"alpha", &old_side_}, {"beta", &new_side_}};
  forget();
}

World::~World() {
  new_side_.mover.reset();  // it asks the other
  old_side_.mover.reset();
  old_.reset();
  new_.reset();
  std::error_code ignored;
  if (!root_.empty() && std::getenv("MIDSTREAM_KEEP") == nullptr) std::filesystem::remove_all(root_, ignored);
}

void World::forget() {
  for (auto* side : {&old_side_, &new_side_}) {
    side->state = root_ / ("state-" + side->host);
    std::filesystem::remove_all(side->state);
    std::filesystem::create_directories(side->state);
    std::filesystem::permissions(side->state, std::filesystem::perms(0700));
  }
}

void World::restart_agents(bool with_keepers, Millis lease) {
  ++epoch;
  new_side_.mover.reset();  // it asks the other, in the background too
  old_side_.mover.reset();
  for (auto* side : {&old_side_, &new_side_}) {
    side->options.keeper = with_keepers;
    side->options.lease = lease;
    side->options.checkpoint = [this](std::string_view point) {
      std::unique_lock lock(acts_mutex_);
      auto act = acts_.extract(std::string(point));
      lock.unlock();
      if (!act.empty()) act.mapped()();
      lock.lock();
      if (point != crash_point_) return;
      crash_point_.clear();
      throw Crash{std::string(point)};
    };
    side->mover = make_postgres_mover(side->options);
    side->stop = std::stop_source();
    (void)side->mover->start(context(*side));
  }
}

void World::crash_at(const std::string& point) {
  const std::lock_guard lock(acts_mutex_);
  crash_point_ = point;
}

bool World::crashed() {
  const std::lock_guard lock(acts_mutex_);
  return crash_point_.empty();
}

void World::use_road(const std::string& road, std::int64_t limit) {
  road_ = road;
  limit_ = limit;
}

void World::restore_new() {
  for (auto* side : {&new_side_, &old_side_}) side->mover.reset();  // new's asks the other
  new_->crash();
  const auto data = new_->directory() / "data";
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(new_->directory())) {
    const auto name = entry.path().filename().native();
    if (!name.starts_with("data.before-")) continue;
    if (std::filesystem::exists(data / "midstream.seed")) std::filesystem::remove_all(data);
    else std::filesystem::rename(data, new_->directory() / "data.finished");
    std::filesystem::rename(entry.path(), data);
    break;
  }
  std::filesystem::remove_all(new_->directory() / "data.finished", ignored);
  std::filesystem::remove_all(new_->directory() / ".midstream-autumn-1-5502", ignored);
  usable_ = new_->start();
}

namespace {

// A standby of an earlier test that is made a primary again without being promoted goes on in the timeline of its last
// checkpoint: what its log has of later ones belongs to a past that it has no part in.
bool forget_later_timelines(const std::filesystem::path& data) {
  const auto control = run_child({"/usr/lib/postgresql/15/bin/pg_controldata", data.native()}, "", Deadline::in(Millis(10'000)));
  if (!control || control->code != 0) return false;
  unsigned long own = 0;
  for (const std::string_view mark : {"Latest checkpoint's TimeLineID:", "Min recovery ending loc's timeline:"}) {
    const auto at = control->out.find(mark);
    if (at == std::string::npos) return false;
    own = std::max(own, std::stoul(control->out.substr(at + mark.size())));
  }
  std::vector<std::filesystem::path> later;
  for (const auto& entry : std::filesystem::directory_iterator(data / "pg_wal"))
    if (entry.path().extension() == ".history" && std::stoul(entry.path().stem().native(), nullptr, 16) > own) later.push_back(entry.path());
  for (const auto& path : later) std::filesystem::remove(path);
  return true;
}

}  // namespace

void World::restore_old() {
  for (auto* side : {&new_side_, &old_side_}) side->mover.reset();
  old_->crash();
  const auto data = old_->directory() / "data";
  std::error_code ignored;
  std::filesystem::remove(data / "standby.signal", ignored);
  old_->write("postgresql.auto.conf", "");
  std::filesystem::remove_all(old_->directory() / ".midstream-autumn-1-5501", ignored);
  usable_ = forget_later_timelines(data) && old_->start();
  if (!usable_) fmt::print(stderr, "old cannot be made a primary again: see its log in {}\n", old_->directory().native());
}

void World::once_at(const std::string& point, std::function<void()> act) {
  const std::lock_guard lock(acts_mutex_);
  acts_[point] = std::move(act);
}

void World::forget_acts() {
  const std::lock_guard lock(acts_mutex_);
  acts_.clear();
}

void World::set_wal_floor(std::int64_t bytes) {
  for (auto* side : {&old_side_, &new_side_}) side->options.wal_floor = bytes;
}

void World::set_copy_chunk(std::int64_t bytes) {
  for (auto* side : {&old_side_, &new_side_}) side->options.copy_chunk = bytes;
}

void World::set_verify_rows(std::int64_t rows) {
  for (auto* side : {&old_side_, &new_side_}) side->options.verify_rows = rows;
}

void World::make_shop() {
  old_->sql("postgres",
            "CREATE ROLE shop_owner NOLOGIN; CREATE ROLE client LOGIN PASSWORD 'client-password' IN ROLE "
            "shop_owner; "
            "CREATE ROLE root_too LOGIN SUPERUSER PASSWORD 'other-password'; ALTER ROLE client SET work_mem "
            "= '5MB'");
  old_->sql("postgres", "CREATE DATABASE shop OWNER shop_owner CONNECTION LIMIT 50");
  old_->sql("postgres",
            "ALTER DATABASE shop SET search_path = public, pg_catalog; REVOKE ALL ON DATABASE shop FROM "
            "PUBLIC; GRANT "
            "CONNECT ON DATABASE shop TO client");
  const auto made =
      old_->sql("shop", std::string("SET ROLE postgres; GRANT CREATE ON SCHEMA public TO shop_owner;") + kShop +
                            "GRANT ALL ON ALL TABLES IN SCHEMA public TO client; GRANT ALL ON ALL SEQUENCES IN "
                            "SCHEMA public TO client; ALTER TABLE orders OWNER TO shop_owner");
  if (made.starts_with("ERROR")) fmt::print(stderr, "make_shop: {}\n", made);
}

void World::drop_shop() {
  for (auto* server : {old_.get(), new_.get()}) {
    server->sql("postgres", "UPDATE pg_database SET datallowconn = true WHERE datname = 'shop'");
    const std::string drop =
        "DO $$ DECLARE s text; BEGIN PERFORM set_config('midstream.allow', 'on', true); FOR s IN SELECT subname FROM "
        "pg_subscription LOOP EXECUTE format('ALTER SUBSCRIPTION %I DISABLE', s); EXECUTE format('ALTER SUBSCRIPTION "
        "%I SET "
        "(slot_name = NONE)', s); EXECUTE format('DROP SUBSCRIPTION %I', s); END LOOP; END $$";
    if (server->sql("shop", drop).starts_with("ERROR")) server->sql("shop", drop, true);
  }
  // Only now does nobody come back to a slot.
  for (auto* server : {old_.get(), new_.get()}) {
    server->sql("postgres", "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots");
    for (int i = 0; i < 50 && server->sql("postgres", "SELECT count(*) FROM pg_replication_slots") != "0"; ++i) {
      server->sql("postgres", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active");
      pause_for(Millis(20), {});
    }
    server->sql("postgres", "DROP DATABASE IF EXISTS shop WITH (FORCE)");
    // After a test that failed half-way the next one shall not fail as well.
    for (const char* name : {"pg_hba.conf", "pg_ident.conf"})
      server->write(name, with_block(server->read(name), "autumn-1", ""));
    server->sql("postgres", "SELECT pg_reload_conf()");
    for (const char* role :
         {"client", "root_too", "shop_owner", "\"midstream_repl_autumn-1\"", "\"midstream_probe_autumn-1\"",
          "\"midstream_fence_autumn-1_0\"", "\"midstream_gate_autumn-1\"", "\"midstream_autumn-1\""})
      server->sql("postgres", fmt::format("DROP ROLE IF EXISTS {}", role));
  }
}

Json World::desired(const std::string& kind) const {
  const Json old_end{{"host", "alpha"}, {"address", "127.0.0.1"}, {"port", 5501}};
  const Json new_end{{"host", "beta"}, {"address", "127.0.0.1"}, {"port", 5502}};
  Json desired{{"kind", kind},          {"port", kind == "source" ? 5501 : 5502},
               {"databases", {database}}, {"old", old_end},
               {"new", new_end},        {"until", "caught-up"},
               {"deadline_ms", 3000},   {"verified_within_ms", verified_within_ms}};
  if (!road_.empty()) desired["road"] = road_;
  if (limit_ > 0) desired["limit"] = limit_;
  if (!reverse.empty()) desired["reverse"] = reverse;
  if (commit_latency_ms > 0) desired["commit_latency_ms"] = commit_latency_ms;
  if (joined_.gate) desired["gate"] = {{"host", "gamma"}, {"address", "127.0.0.1"}};
  return desired;
}

Context World::context(Side& side) {
  return Context{Task{"autumn-1", "step", epoch},
                 side.host,
                 side.state,
                 joined_,
                 Deadline::in(patience),
                 side.stop.get_token()};
}

Side& World::runs(const std::string& kind) { return kind == "source" ? old_side_ : new_side_; }

Result<Json> World::apply(const std::string& kind) {
  return runs(kind).mover->apply(context(runs(kind)), desired(kind));
}
Result<Json> World::undo(const std::string& kind) { return runs(kind).mover->undo(context(runs(kind)), desired(kind)); }
Result<Json> World::observe(const std::string& kind) {
  return runs(kind).mover->observe(context(runs(kind)), desired(kind));
}
Result<Json> World::observe_undo(const std::string& kind) {
  return runs(kind).mover->observe_undo(context(runs(kind)), desired(kind));
}
Result<Json> World::ask_old(const std::string& verb) {
  return old_side_.mover->peer(context(old_side_), verb, {{"database", database}, {"desired", desired("switch")}});
}
Result<Json> World::check(const std::string& kind) {
  return runs(kind).mover->check(context(runs(kind)), desired(kind));
}

bool World::wait_reached(const std::string& kind, Millis within) {
  for (const auto deadline = Deadline::in(within); !deadline.expired(); pause_for(Millis(20), {})) {
    const auto seen = observe(kind);
    why = seen ? seen->value("why", "") : seen.error().text();
    if (seen && seen->value("reached", false)) return true;
  }
  return false;
}

Client::Client(World& world) : world_(world), thread_([this](const std::stop_token& stop) { run(stop); }) {}

void Client::end() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
}

void Client::run(const std::stop_token& stop) {
  std::optional<Session> session;
  std::int64_t key = 0;
  auto last = boot_now();
  bool to_new = false;
  while (!stop.stop_requested()) {
    if (!session) {
      Session::Target target;
      target.host = "127.0.0.1";
      target.port = to_new ? world_.new_server().port() : world_.old_server().port();
      target.database = "shop";
      target.user = "client";
      target.password = "client-password";
      target.application = "shop";
      target.quiet = false;
      auto made = Session::login(target, Deadline::in(Millis(2000)), {});
      if (!made) {
        to_new = !to_new;
        pause_for(Millis(2), stop);
        continue;
      }
      session.emplace(std::move(*made));
    }
    ++key;
    const auto done =
        session->query(fmt::format("BEGIN; INSERT INTO public.orders (key, customer, body) VALUES ({0}, {0} "
                                   "% 500 + 1, 'order {0}'); UPDATE "
                                   "public.stock SET sold = sold + 1 WHERE item = {0} % 5 + 1; COMMIT",
                                   key),
                       {}, Deadline::in(Millis(5000)), {});
    // With its data in memory a server takes thousands a second, and has the cores to itself.
    if (done) pause_for(Millis(2), stop);
    const std::lock_guard lock(mutex_);
    if (done) {
      acknowledged_.insert(key);
      ++count_;
      const auto now = boot_now();
      longest_ms_ = std::max<std::int64_t>(longest_ms_, std::chrono::duration_cast<Millis>(now - last).count());
      last = now;
      continue;
    }
    // Only a lost connection leaves it open whether the commit happened.
    if (done.error().connection_lost) unknown_.insert(key);
    session.reset();
  }
}

bool Client::wait_orders(int more, Millis within) {
  const auto target = count_.load() + more;
  for (const auto deadline = Deadline::in(within); !deadline.expired(); pause_for(Millis(5), {}))
    if (count_ >= target) return true;
  return false;
}

std::string Client::audit(Server& server) {
  const auto parsed = parse_json(server.sql("shop", "SELECT coalesce(jsonb_agg(key), '[]') FROM orders"));
  if (!parsed) return "cannot read orders: " + parsed.error().text();
  const std::lock_guard lock(mutex_);
  std::set<std::int64_t> there;
  for (const auto& key : *parsed)
    if (!there.insert(key.get<std::int64_t>()).second) return fmt::format("order {} is there twice", key.dump());
  for (const auto key : acknowledged_)
    if (!there.contains(key)) return fmt::format("acknowledged order {} is lost", key);
  for (const auto key : there)
    if (!acknowledged_.contains(key) && !unknown_.contains(key))
      return fmt::format("order {} was refused, but is there", key);
  const auto sold = server.sql("shop", "SELECT sum(sold) FROM stock");
  if (sold != std::to_string(there.size())) return fmt::format("{} orders, but {} sold", there.size(), sold);
  return "";
}

int side_changes(World& world) {
  std::vector<std::pair<std::int64_t, int>> commits;
  int side = 0;
  for (auto* server : {&world.old_server(), &world.new_server()}) {
    const auto list = parse_json(server->sql("shop",
                                             "SELECT coalesce(jsonb_agg((extract(epoch FROM c.timestamp) * "
                                             "1000000)::bigint), '[]') FROM orders o, LATERAL "
                                             "pg_xact_commit_timestamp_origin(o.xmin) c WHERE c.roident = 0",
                                             true));
    if (list)
      for (const auto& at : *list) commits.emplace_back(at.get<std::int64_t>(), side);
    ++side;
  }
  std::ranges::sort(commits);
  int changes = 0;
  for (std::size_t i = 1; i < commits.size(); ++i) changes += commits[i].second != commits[i - 1].second ? 1 : 0;
  return changes;
}

}  // namespace midstream::postgres::test
