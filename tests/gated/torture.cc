#include "tests/gated/torture.h"

#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <set>

#include "base/text.h"
#include "sys/clock.h"
#include "tests/gated/gated.h"
#include "sys/stream.h"

namespace midstream {

namespace {

using Result_ = std::unique_ptr<PGresult, decltype(&PQclear)>;
constexpr std::int64_t kSpan = 1'000'000'000;  // keys of one session, above those of pgbench's
constexpr std::int64_t kBase = 2'000'000'000'000'000;

}  // namespace

class TortureSession {
 public:
  TortureSession(int number, int of, int port) : number_(number), of_(of) {
    const auto info = fmt::format("host=127.0.0.1 port={} user=client dbname=shop password=client-password sslmode=disable application_name='torture {}' "
                                  "options='-c work_mem=3MB -c statement_timeout=120s'", port, number);
    connection_.reset(PQconnectdb(info.c_str()));
    if (PQstatus(get()) != CONNECTION_OK) wrong(PQerrorMessage(get()));
    make();
  }

  void run() {
    while (!over_ && PQstatus(get()) == CONNECTION_OK) {
      const auto round = rounds_.load();
      look();
      use(round);
      change(round);
      ++rounds_;
      pause_for(pause_, {});
      look_at_unnamed();
    }
    if (PQstatus(get()) != CONNECTION_OK) wrong(std::string("the connection is lost: ") + PQerrorMessage(get()));
    for (const auto deadline = Deadline::in(Millis(10'000)); heard_ < wanted_ && !deadline.expired();) hear(50);
    if (heard_ < wanted_) wrong(fmt::format("{} of {} notifications were heard", heard_.load(), wanted_.load()));
  }

  const Millis pause_{from_environment("MIDSTREAM_TORTURE_PAUSE", 5)};  // longer, where waits are measured
  std::atomic<bool> over_ = false;
  std::atomic<int> pin_ = 0;  // what the next round makes and keeps: 1 a temporary table, 2 a cursor
  std::atomic<bool> pinned_ = false;
  std::atomic<std::int64_t> rounds_ = 0, orders_ = 0, heard_ = 0, wanted_ = 0;
  std::array<TortureSession*, 2> heard_by_{};  // who listens to what this one tells: itself, and its neighbour
  std::vector<std::string> wrongs() const {
    const std::lock_guard lock(mutex_);
    return wrongs_;
  }

 private:
  PGconn* get() const { return connection_.get(); }
  void wrong(const std::string& what) {
    const std::lock_guard lock(mutex_);
    if (wrongs_.size() < 20) wrongs_.push_back(fmt::format("torture {}, round {}: {}", number_, rounds_.load(), what));
  }
  void equal(const std::string& found, const std::string& wanted, std::string_view what) {
    if (found != wanted) wrong(fmt::format("{} is '{}', not '{}'", what, found, wanted));
  }
  // All values, joined; or the command; or the error.
  static std::string text(PGresult* result) {
    const Result_ owned(result, &PQclear);
    if (PQresultStatus(result) == PGRES_COMMAND_OK) return PQcmdStatus(result);
    if (PQresultStatus(result) != PGRES_TUPLES_OK) return PQresultErrorMessage(result);
    std::string all;
    for (int row = 0; row < PQntuples(result); ++row)
      for (int column = 0; column < PQnfields(result); ++column) all += (all.empty() ? "" : "|") + std::string(PQgetvalue(result, row, column));
    return all;
  }
  std::string ask(const std::string& sql) { return text(PQexec(get(), sql.c_str())); }
  void done(const std::string& sql, const std::string& wanted) { equal(ask(sql), wanted, sql); }
  std::string prepared(const std::string& name, std::vector<const char*> values = {}) {
    return text(PQexecPrepared(get(), name.c_str(), static_cast<int>(values.size()), values.data(), nullptr, nullptr, 0));
  }
  void prepare(const std::string& name, const std::string& sql) { equal(text(PQprepare(get(), name.c_str(), sql.c_str(), 0, nullptr)), "", "preparing " + name); }

  // Everything anew, on a session that has nothing.
  void make() {
    settings_ = {{"app.tenant", "o'brien \\ co " + std::to_string(number_)}, {"TimeZone", "Asia/Tokyo"}, {"DateStyle", "German, DMY"}, {"IntervalStyle", "iso_8601"},
                 {"search_path", "public, pg_temp"}, {"app.mode", "fast"}, {"lock_timeout", "77s"}, {"extra_float_digits", "2"}};
    for (const auto& [name, value] : settings_) set(name, value);
    role_ = "none";
    sql_.clear();
    by_name_.clear();
    locks_.clear();
    for (int i = 0; i < 3; ++i) add_statement();
    add_lock();
    ask("SELECT pg_advisory_lock_shared(7)");
    locks_.insert("0/7/1 ShareLock");
    done("LISTEN torture_" + std::to_string(number_), "LISTEN");
    done("LISTEN \"Neighbour " + std::to_string(number_) + "\"", "LISTEN");
    make_temporary();
    prepare_unnamed();
  }
  void make_temporary() {
    done("CREATE TEMP TABLE notes (id serial PRIMARY KEY, n int UNIQUE, v varchar(40) DEFAULT 'none' CHECK (v <> ''))", "CREATE TABLE");
    done("CREATE TEMP TABLE each_time (n int, t text) ON COMMIT DELETE ROWS", "CREATE TABLE");
    done("GRANT ALL ON notes, each_time TO shop_owner; GRANT ALL ON SEQUENCE notes_id_seq TO shop_owner", "GRANT");
    done("DECLARE walker SCROLL CURSOR WITH HOLD FOR SELECT g AS n, 'step ' || g AS v FROM generate_series(1, 9) g", "DECLARE CURSOR");
    notes_.clear();
    note_ = walked_ = 0;
  }
  void set(const std::string& name, const std::string& value) {
    // The name as a literal, as clients write it; one kind by SET, the other by the function.
    const auto quoted = replaced(value);
    if (name == "app.mode") ask(fmt::format("SELECT set_config('{}', '{}', false)", name, quoted));
    else done(name == "search_path" || name == "DateStyle" ? fmt::format("SET {} = {}", name, value) : fmt::format("SET {} = '{}'", name, quoted), "SET");
    settings_[name] = value;
  }
  static std::string replaced(const std::string& value) {
    std::string out;
    for (const char c : value) out += c == '\'' ? std::string("''") : std::string(1, c);
    return out;
  }
  void add_statement() {
    const auto n = ++made_;
    done(fmt::format("PREPARE sql_{} (int) AS SELECT $1 + {}", n, n), "PREPARE");
    sql_.insert(n);
    prepare(fmt::format("by name {}", n), fmt::format("SELECT $1::int * {}", n));
    by_name_.insert(n);
  }
  void drop_statement() {
    done(fmt::format("DEALLOCATE sql_{}", *sql_.begin()), "DEALLOCATE");
    sql_.erase(sql_.begin());
    done(fmt::format("DEALLOCATE \"by name {}\"", *by_name_.begin()), "DEALLOCATE");
    by_name_.erase(by_name_.begin());
  }
  void add_lock() {
    const auto n = ++made_;
    ask(fmt::format("SELECT pg_advisory_lock({}, {})", number_ + 100, n));
    locks_.insert(fmt::format("{}/{}/2 ExclusiveLock", number_ + 100, n));
    newest_lock_ = n;
  }
  void prepare_unnamed() {
    unnamed_ = fmt::format("unnamed {}", ++made_);
    prepare("", fmt::format("SELECT '{}'", unnamed_));
  }

  // Everything is as it was made.
  void look() {
    for (const auto& [name, value] : settings_) equal(ask("SHOW " + name), value, name);
    for (const auto* name : {"TimeZone", "DateStyle", "IntervalStyle"}) equal(PQparameterStatus(get(), name), settings_.at(name), std::string("the reported ") + name);
    equal(ask("SHOW work_mem") + ask("SHOW statement_timeout"), "3MB2min", "what was set at the start");
    equal(ask("SHOW role"), role_, "the role");
    equal(ask("SELECT current_user"), role_ == "none" ? "client" : role_, "the user");
    for (const auto n : sql_) equal(ask(fmt::format("EXECUTE sql_{} (1)", n)), std::to_string(n + 1), "EXECUTE");
    for (const auto n : by_name_) equal(prepared(fmt::format("by name {}", n), {"3"}), std::to_string(3 * n), "a statement prepared by the protocol");
    equal(ask("SELECT string_agg(format('%s/%s/%s %s', classid, objid, objsubid, mode), ',') FROM (SELECT * FROM pg_locks WHERE locktype = 'advisory' AND pid = "
              "pg_backend_pid() ORDER BY format('%s/%s/%s %s', classid, objid, objsubid, mode) COLLATE \"C\") AS mine"),
          join(std::vector<std::string>(locks_.begin(), locks_.end()), ","), "advisory locks");
    equal(ask("SELECT string_agg(c, ',' ORDER BY c COLLATE \"C\") FROM pg_listening_channels() c"), fmt::format("Neighbour {0},torture_{0}", number_), "channels");
    std::string notes;
    for (const auto& [id, v] : notes_) notes += fmt::format("{}{}:{}", notes.empty() ? "" : ",", id, v);
    equal(ask("SELECT string_agg(id || ':' || v, ',' ORDER BY id) FROM notes"), notes, "a temporary table");
    equal(ask("FETCH RELATIVE 0 FROM walker"), walked_ == 0 || walked_ == 10 ? "" : fmt::format("{0}|step {0}", walked_), "the row on which its cursor stands");
    hear(0);
  }
  void look_at_unnamed() { equal(prepared(""), unnamed_, "the unnamed statement"); }

  // Every way of asking, with rows that are counted.
  void use(std::int64_t round) {
    const auto put = [&](const char* before, const char* after) {
      return fmt::format("{}INSERT INTO public.orders (key, customer, body) VALUES ({}, 1, 'torture'){}", before, kBase + number_ * kSpan + orders_, after);
    };
    if (round % 3 == 0) {
      done("BEGIN", "BEGIN");
      done(put("", ""), "INSERT 0 1");
      pause_for(Millis(2), {});
      done("COMMIT", "COMMIT");
    } else {
      done(put(round % 3 == 1 ? "BEGIN; " : "", round % 3 == 1 ? "; COMMIT" : ""), round % 3 == 1 ? "COMMIT" : "INSERT 0 1");
    }
    ++orders_;
    equal(ask(fmt::format("SELECT count(*) FROM public.orders WHERE key >= {} AND key < {}", kBase + number_ * kSpan, kBase + (number_ + 1) * kSpan)),
          std::to_string(orders_.load()), "its own rows");
    if (ask("SELECT 1 / 0").find("division by zero") == std::string::npos) wrong("no division by zero");
    // Its lock, nobody else has; and each other one's is not to be had.
    tell(round);
    if (round % 4 == 1) pipeline();
    if (round % 8 == 3) copy();
    if (round % 16 == 5) brief_pins();
    if (const int kind = pin_.exchange(0)) keep_pinned(kind);
  }
  void tell(std::int64_t round) {
    for (std::size_t i = 0; i < heard_by_.size(); ++i) {
      const auto to = heard_by_[i]->number_;
      const auto channel = i == 0 ? fmt::format("torture_{}", to) : fmt::format("\"Neighbour {}\"", to);
      done(fmt::format("NOTIFY {}, '{}'", channel, told_), "NOTIFY");
      ++heard_by_[i]->wanted_;
    }
    ++told_;
    (void)round;
  }
  // Each once and in order, from each who tells.
  void hear(int wait_ms) {
    if (wait_ms > 0) (void)wait_fd(PQsocket(get()), POLLIN, Deadline::in(Millis(wait_ms)), {});
    PQconsumeInput(get());
    while (PGnotify* one = PQnotifies(get())) {
      const std::string channel = one->relname, payload = one->extra;
      PQfreemem(one);
      equal(payload, std::to_string(next_[channel]++), "the next notification on " + channel);
      ++heard_;
    }
  }
  void pipeline() {
    PQenterPipelineMode(get());
    for (int i = 0; i < 5; ++i) {
      const auto value = std::to_string(i);
      const std::array<const char*, 1> values{value.c_str()};
      PQsendQueryParams(get(), i == 3 ? "SELECT 1 / ($1::int - 3)" : "SELECT $1::int + 10", 1, nullptr, values.data(), nullptr, nullptr, 0);
      PQpipelineSync(get());
    }
    for (int i = 0; i < 5; ++i) {
      const auto found = text(PQgetResult(get()));
      if (i == 3 ? found.find("division by zero") == std::string::npos : found != std::to_string(i + 10)) wrong(fmt::format("pipelined {}: {}", i, found));
      while (PGresult* end = PQgetResult(get())) PQclear(end);
      PQclear(PQgetResult(get()));  // of the Sync
    }
    PQexitPipelineMode(get());
  }
  void copy() {
    PQclear(PQexec(get(), "COPY public.orders (key, customer, body) FROM STDIN"));
    const auto line = fmt::format("{}\t1\tcopied\n", kBase + number_ * kSpan + orders_);
    if (PQputCopyData(get(), line.c_str(), static_cast<int>(line.size())) != 1 || PQputCopyEnd(get(), nullptr) != 1) wrong(PQerrorMessage(get()));
    equal(text(PQgetResult(get())), "COPY 1", "COPY in");
    while (PGresult* end = PQgetResult(get())) PQclear(end);
    ++orders_;
    PQclear(PQexec(get(), "COPY (SELECT g FROM generate_series(1, 100) g) TO STDOUT"));
    char* row = nullptr;
    int rows = 0;
    while (PQgetCopyData(get(), &row, 0) > 0) PQfreemem(row), ++rows;
    if (rows != 100) wrong(fmt::format("COPY out gave {} rows", rows));
    while (PGresult* end = PQgetResult(get())) PQclear(end);
  }
  // Every way that a table can change, and a cursor move.
  void change_temporary(std::int64_t round) {
    const auto id = ++note_;
    done(fmt::format("INSERT INTO notes (n) VALUES ({})", id), "INSERT 0 1");
    notes_[id] = "none";
    if (round % 3 == 0) {
      done(fmt::format("UPDATE notes SET v = 'round {}' WHERE id = {}", round, notes_.begin()->first), "UPDATE 1");
      notes_.begin()->second = fmt::format("round {}", round);
    }
    if (notes_.size() > 10) {
      done(fmt::format("DELETE FROM notes WHERE id = {}", notes_.begin()->first), "DELETE 1");
      notes_.erase(notes_.begin());
    }
    if (round % 11 == 7) {
      done("DROP TABLE notes, each_time; CLOSE walker", "CLOSE CURSOR");
      // By whom it was made, it is to be dropped.
      make_temporary();
    }
    done("BEGIN", "BEGIN");
    done("INSERT INTO each_time VALUES (1), (2)", "INSERT 0 2");
    equal(ask("SELECT sum(n) FROM each_time"), "3", "what a transaction has put into its table");
    done("COMMIT", "COMMIT");
    equal(ask("SELECT count(*) FROM each_time"), "0", "a table ON COMMIT DELETE ROWS after it");
    if (++walked_ <= 10) {
      equal(ask("FETCH NEXT FROM walker"), walked_ == 10 ? "" : fmt::format("{0}|step {0}", walked_), "the next row of its cursor");
    } else {
      equal(ask("FETCH BACKWARD 2 FROM walker"), "9|step 9|8|step 8", "the last rows of its cursor, backward");
      done("MOVE ABSOLUTE 0 FROM walker", "MOVE 0");
      walked_ = 0;
    }
  }
  // What cannot go over is made, used and closed in time.
  void brief_pins() {
    done("CREATE TEMP VIEW brief AS SELECT 3 AS sum", "CREATE VIEW");
    equal(ask("SELECT sum FROM brief"), "3", "a temporary view");
    done("DROP VIEW brief", "DROP VIEW");
    done("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 3)", "DECLARE CURSOR");
    equal(ask("FETCH 2 FROM held"), "1|2", "a cursor WITH HOLD");
    equal(ask("FETCH 2 FROM held"), "3", "a cursor WITH HOLD");
    done("CLOSE held", "CLOSE CURSOR");
  }
  void keep_pinned(int kind) {
    done(kind == 1 ? "CREATE TEMP VIEW kept AS SELECT 1 AS n" : "DECLARE kept NO SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 3)", kind == 1 ? "CREATE VIEW" : "DECLARE CURSOR");
    pinned_ = true;
    for (const auto deadline = Deadline::in(Millis(30'000)); pinned_ && !deadline.expired();) hear(10);
    if (kind == 2) equal(ask("FETCH 3 FROM kept"), "1|2|3", "the cursor that was kept");
    done(kind == 1 ? "DROP VIEW kept" : "CLOSE kept", kind == 1 ? "DROP VIEW" : "CLOSE CURSOR");
  }

  void change(std::int64_t round) {
    set("app.tenant", fmt::format("tenant {} {}", number_, round));
    if (role_ == "none") change_temporary(round);
    if (round % 2 == 0) set("TimeZone", round % 4 == 0 ? "Asia/Tokyo" : "Europe/Berlin");
    role_ = round % 3 == 0 ? "shop_owner" : "none";
    done("SET ROLE " + role_, "SET");
    if (round % 5 == 0) {
      add_statement();
      drop_statement();
    }
    if (round % 7 == 0) {
      ask(fmt::format("SELECT pg_advisory_unlock({}, {})", number_ + 100, newest_lock_));
      locks_.erase(fmt::format("{}/{}/2 ExclusiveLock", number_ + 100, newest_lock_));
      add_lock();
    }
    // A lock of the neighbour's is not to be had.
    if (of_ > 1) equal(ask(fmt::format("SELECT pg_try_advisory_lock({})", 7)), "f", "a lock that others share");
    prepare_unnamed();  // last: a simple query would drop it
  }

  const int number_, of_;
  std::unique_ptr<PGconn, decltype(&PQfinish)> connection_{nullptr, &PQfinish};
  std::map<std::string, std::string> settings_;
  std::string role_, unnamed_;
  std::set<int> sql_, by_name_;
  std::set<std::string> locks_;  // in the order of their texts
  int made_ = 0, newest_lock_ = 0;
  std::map<int, std::string> notes_;  // rows of the temporary table
  int note_ = 0, walked_ = 0;         // the last one made; where its cursor stands: 0 before the first of 9 rows, 10 behind the last
  std::int64_t told_ = 0;
  std::map<std::string, std::int64_t> next_;
  mutable std::mutex mutex_;
  std::vector<std::string> wrongs_;
};

Torture::Torture(int sessions, int port) {
  for (int i = 0; i < sessions; ++i) all_.push_back(std::make_unique<TortureSession>(i, sessions, port));
  for (std::size_t i = 0; i < all_.size(); ++i) all_[i]->heard_by_ = {all_[i].get(), all_[(i + 1) % all_.size()].get()};
  for (const auto& one : all_) threads_.emplace_back([session = one.get()] { session->run(); });
}

Torture::~Torture() { end(); }

bool Torture::all_looked(int within_ms) {
  // The round that is under way may have looked before: the one after it has not.
  std::vector<std::int64_t> wanted;
  for (const auto& one : all_) wanted.push_back(one->rounds_ + 2);
  const auto deadline = Deadline::in(Millis(within_ms));
  for (std::size_t i = 0; i < all_.size(); ++i)
    for (; all_[i]->rounds_ < wanted[i]; pause_for(Millis(5), {}))
      if (deadline.expired()) return false;
  return true;
}

void Torture::pin(bool with_cursor) {
  all_.front()->pin_ = with_cursor ? 2 : 1;
  for (const auto deadline = Deadline::in(Millis(20'000)); !all_.front()->pinned_ && !deadline.expired();) pause_for(Millis(5), {});
}

void Torture::let_go() { all_.front()->pinned_ = false; }

void Torture::end() {
  // Nobody tells any more before the first one ends to hear.
  for (const auto& one : all_) one->over_ = true;
  threads_.clear();
}

std::int64_t Torture::orders() const {
  std::int64_t sum = 0;
  for (const auto& one : all_) sum += one->orders_;
  return sum;
}

std::int64_t Torture::notifications() const {
  std::int64_t sum = 0;
  for (const auto& one : all_) sum += one->heard_;
  return sum;
}

std::int64_t Torture::rounds() const {
  std::int64_t sum = 0;
  for (const auto& one : all_) sum += one->rounds_;
  return sum;
}

std::vector<std::string> Torture::wrong() const {
  std::vector<std::string> all;
  for (const auto& one : all_)
    for (auto& what : one->wrongs()) all.push_back(std::move(what));
  return all;
}

}  // namespace midstream
