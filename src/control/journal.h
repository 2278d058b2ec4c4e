// The journal: the engine's records of one move, in SQLite (WAL, synchronous FULL). docs/formats/journal.md.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "sys/fd.h"

struct sqlite3;

namespace midstream {

// Tells a journal from any other of a move of the same name: random, in hex.
Result<std::string> make_journal_id();

class Journal {
 public:
  // Opens or creates `directory`/journal.db and takes the controller's lock on it. Refused, naming the lock, while
  // another controller of the move runs.
  static Result<Journal> open(const std::filesystem::path& directory);
  // To look at only; no lock. Refused where there is none.
  static Result<Journal> open_to_read(const std::filesystem::path& directory);

  // All records, oldest first.
  Result<std::vector<Json>> read();
  // Adds records in one transaction, all or none; on success they are on disk. Fenced, and nothing added, where the
  // last record is not the one that was read or added here: whoever wrote it decides now.
  Result<> append(const std::vector<Json>& records);

 private:
  struct Close {
    void operator()(sqlite3* db) const;
  };
  Journal(std::unique_ptr<sqlite3, Close> db, Fd lock) : db_(std::move(db)), lock_(std::move(lock)) {}
  static Result<Journal> open_with(const std::filesystem::path& directory, int flags, Fd lock);
  Result<> execute(const char* sql) const;
  Result<> add(const std::vector<Json>& records);

  std::unique_ptr<sqlite3, Close> db_;
  Fd lock_;
  std::int64_t tail_ = 0;  // seq of the last record that was read or added
};

}  // namespace midstream
