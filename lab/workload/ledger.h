// The ledger being written: one file a run, ledger-N.jsonl, in a directory that outlives the run.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/result.h"
#include "lab/workload/record.h"
#include "sys/fd.h"

namespace midstream::lab {

// Thread-safe. After an error nothing more may be promised to anybody: the client stops.
//
// Durability: a line is in the kernel when append returns, so a kill of the client loses none. An attempt to
// write must also be on disk before its request leaves (sync), for a row that nobody remembers to have asked
// for would look like an invented one after a power cut of the clients' host. Outcomes are not waited for:
// one that is lost turns its operation into an unknown one, which makes the checker weaker but never wrong.
// Callers of sync share one fdatasync (group commit), so it costs one flush for all lanes rather than one
// each.
class Ledger {
 public:
  // Makes `directory` if needed and a file of the first free number N in it. `name` (a plain name) and N make
  // the prefix of all keys.
  static Result<std::unique_ptr<Ledger>> open(const std::filesystem::path& directory,
                                              const std::string& name);

  // Stamps `record` with the time and appends it. Returns the ticket for sync.
  Result<std::uint64_t> append(Record record);
  // Returns once everything up to `ticket` is on disk.
  Result<> sync(std::uint64_t ticket);

  std::uint64_t next_op() { return ++ops_; }
  const std::string& prefix() const { return prefix_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  Ledger(Fd fd, std::string prefix, std::filesystem::path path)
      : fd_(std::move(fd)), prefix_(std::move(prefix)), path_(std::move(path)) {}

  Fd fd_;
  std::string prefix_;
  std::filesystem::path path_;
  std::atomic<std::uint64_t> ops_{0};
  std::mutex mutex_;
  std::condition_variable synced_changed_;
  std::uint64_t written_ = 0;
  std::uint64_t synced_ = 0;
  bool syncing_ = false;
  bool broken_ = false;
};

}  // namespace midstream::lab
