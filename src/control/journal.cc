#include "control/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/random.h>

#include "base/text.h"
#include "sys/clock.h"
#include "sys/file.h"

namespace midstream {

namespace {

struct Finalize {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, Finalize>;

std::unexpected<Error> database_error(sqlite3* db, std::string_view what) {
  const int code = sqlite3_errcode(db);
  const auto text = fmt::format("journal: {}: {}", what, sqlite3_errmsg(db));
  if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) return corrupt(text, "keep the file; `midstream run --adopt` rebuilds the journal from the agents");
  if (code == SQLITE_FULL) return refused(text, "make room on the controller's disk");
  if (code == SQLITE_BUSY) return retry(text);
  return refused(text);
}

Result<Statement> prepare(sqlite3* db, const char* sql) {
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v2(db, sql, -1, &raw, nullptr) != SQLITE_OK) return database_error(db, "cannot prepare");
  return Statement(raw);
}

}  // namespace

Result<std::string> make_journal_id() {
  unsigned char bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return errno_failure("no random bytes", errno);
  return to_hex({reinterpret_cast<char*>(bytes), sizeof bytes});
}

void Journal::Close::operator()(sqlite3* db) const { sqlite3_close(db); }

Result<Journal> Journal::open_with(const std::filesystem::path& directory, int flags, Fd lock) {
  sqlite3* raw = nullptr;
  const int opened = sqlite3_open_v2((directory / "journal.db").c_str(), &raw, flags, nullptr);
  std::unique_ptr<sqlite3, Close> db(raw);
  if (opened != SQLITE_OK) return database_error(raw, fmt::format("cannot open {}", directory.string()));
  sqlite3_busy_timeout(raw, 5'000);
  return Journal(std::move(db), std::move(lock));
}

Result<Journal> Journal::open(const std::filesystem::path& directory) {
  CHECK_OK(make_directories(directory));
  Fd lock(::open((directory / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return errno_failure(fmt::format("cannot open the lock in {}", directory.string()), errno);
  // A controller that was just killed holds its lock until the kernel has ended it.
  const auto patience = Deadline::in(Millis(2'000));
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (!patience.expired()) {
      pause_for(Millis(20), {});
      continue;
    }
    return refused("another controller of this move is running", "use its `status`, `pause` or `rollback`, or end it first");
  }
  auto journal = TRY(open_with(directory, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, std::move(lock)));
  CHECK_OK(journal.execute("PRAGMA journal_mode=WAL"));
  CHECK_OK(journal.execute("PRAGMA synchronous=FULL"));
  CHECK_OK(journal.execute("CREATE TABLE IF NOT EXISTS record (seq INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL)"));
  // Whoever wrote last may have died ahead of its sync: what is read from here on is on the disk. Where the disk is full
  // the first append says so.
  [[maybe_unused]] const auto synced = journal.execute("PRAGMA wal_checkpoint(PASSIVE)");
  return journal;
}

Result<Journal> Journal::open_to_read(const std::filesystem::path& directory) {
  if (!std::filesystem::exists(directory / "journal.db")) {
    return refused(fmt::format("there is no journal in {}", directory.string()), "`midstream run move.yaml` begins one");
  }
  return open_with(directory, SQLITE_OPEN_READWRITE, Fd());
}

Result<> Journal::execute(const char* sql) const {
  if (sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr) != SQLITE_OK) return database_error(db_.get(), sql);
  return {};
}

Result<std::vector<Json>> Journal::read() {
  const auto query = TRY(prepare(db_.get(), "SELECT body, seq FROM record ORDER BY seq"));
  std::vector<Json> records;
  while (true) {
    const int step = sqlite3_step(query.get());
    if (step == SQLITE_DONE) return records;
    if (step != SQLITE_ROW) return database_error(db_.get(), "cannot read");
    records.push_back(TRY(parse_json(reinterpret_cast<const char*>(sqlite3_column_text(query.get(), 0)))));
    tail_ = sqlite3_column_int64(query.get(), 1);
  }
}

Result<> Journal::append(const std::vector<Json>& records) {
  if (records.empty()) return {};
  CHECK_OK(execute("BEGIN IMMEDIATE"));
  auto added = add(records);
  if (added) added = execute("COMMIT");
  if (added) {
    tail_ = sqlite3_last_insert_rowid(db_.get());
    return {};
  }
  [[maybe_unused]] const auto rolled_back = execute("ROLLBACK");  // the first error is the one to tell
  return added;
}

// Within the transaction, which keeps every other writer out.
Result<> Journal::add(const std::vector<Json>& records) {
  const auto last = TRY(prepare(db_.get(), "SELECT coalesce(max(seq), 0) FROM record"));
  if (sqlite3_step(last.get()) != SQLITE_ROW) return database_error(db_.get(), "cannot read");
  if (sqlite3_column_int64(last.get(), 0) != tail_) {
    return failure(ErrorKind::fenced, "journal: another controller of this move has written to it",
                   "that one decides now; this one has ended without doing anything more");
  }
  const auto insert = TRY(prepare(db_.get(), "INSERT INTO record (body) VALUES (?)"));
  for (const auto& record : records) {
    const auto body = record.dump(-1, ' ', false, Json::error_handler_t::replace);
    sqlite3_reset(insert.get());
    sqlite3_bind_text(insert.get(), 1, body.c_str(), static_cast<int>(body.size()), SQLITE_TRANSIENT);
    if (sqlite3_step(insert.get()) != SQLITE_DONE) return database_error(db_.get(), "cannot append");
  }
  return {};
}

}  // namespace midstream
