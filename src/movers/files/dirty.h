// The paths that have to be looked at. A mark is a hint that something happened, never what happened. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <vector>

#include "sys/clock.h"

namespace midstream::files {

struct Mark {
  std::int64_t due_ns = 0;    // boot clock: not to be looked at before
  std::int64_t first_ns = 0;  // when it was first marked
  std::uint64_t serial = 0;   // rises with each first mark
  int tries = 0;              // how often it was found changing while it was read
  bool force = false;         // send the content even if only metadata seems to differ
  bool tree = false;          // another directory may have come in its place: compare what is below it
  bool settled = false;       // a long settling time has been granted once
};

// How a path is to be looked at; bits.
inline constexpr unsigned kForce = 1, kTree = 2;

class DirtySet {
 public:
  // Marks `path`, due after `settle`; an earlier due time stands. A mark that says less never undoes one that
  // says more.
  void mark(const std::string& path, Millis settle, unsigned how = 0);
  // Puts a path that was taken back, with its history.
  void put_back(const std::string& path, Mark mark, Millis settle);

  // Removes and returns up to `limit` due paths, in order of marking; they count as pending until done().
  std::vector<std::pair<std::string, Mark>> take(std::size_t limit);
  void done();

  // Everything marked is due at once while `urgent`.
  void set_urgent(bool urgent);

  // Waits until something is due, poke() is called, or `span` has passed.
  void wait(Millis span, const std::stop_token& stop);
  void poke();

  bool any_due();
  std::size_t size();
  // The serial that the next new mark will get.
  std::uint64_t next_serial();
  // Whether nothing marked before `serial` is still pending.
  bool clean_before(std::uint64_t serial);
  // When the longest pending one was marked (boot clock), 0 where nothing is pending.
  std::int64_t oldest_ns();

 private:
  void schedule(const std::string& path, Mark& mark, std::int64_t due_ns);
  bool due_locked() const;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::unordered_map<std::string, Mark> marks_;
  std::multimap<std::int64_t, std::string> queue_;  // by due time; stale rows are skipped when taken
  std::vector<Mark> busy_;
  std::uint64_t serial_ = 1;
  std::uint64_t changes_ = 0;  // of what wait() waits for
  bool urgent_ = false;
  bool poked_ = false;
};

}  // namespace midstream::files
