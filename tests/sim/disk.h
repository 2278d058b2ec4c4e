// The disk under a simulated controller's journal: a file system for SQLite (a VFS) in memory. It fills up, it dies in
// the middle of a write, and a power cut keeps of what was not synced any part, sector by sector. So the shipping journal
// is simulated, not a list in its place.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/loop.h"

namespace midstream::test {

class Disk {
 public:
  explicit Disk(std::uint64_t seed);
  ~Disk();
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  // Files opened from here on belong to a new process, whose number is returned. SQLite works on this disk until
  // another one's enter().
  int begin_process();
  void enter() const;
  // kill -9: its files close without another word; what it has written stays.
  void kill(int process);
  // What was not synced is there, or not, or in part. Nobody must be alive.
  void power_cut();

  void wipe() { files_.clear(); }
  void fill(bool full) { full_ = full; }
  // After so many more operations every one fails, until mend(): the process dies in the middle of one.
  void die_in(int operations) { left_ = operations; }
  bool mend();  // whether it had come to that
  // From here on it says that it has synced, and has not.
  void ignore_syncs() { ignores_syncs_ = true; }

  struct File {
    std::string now;
    std::string durable;
    std::vector<std::pair<std::size_t, std::string>> unsynced;  // writes; one of npos is a truncation to its size
    std::map<int, std::unique_ptr<std::string>> shared;         // the wal-index, in pages; gone when nobody has it
    int sharing = 0;
  };
  struct Handle {  // of one process; refuses everything once that is dead
    Disk* disk = nullptr;
    int process = 0;
    std::string name;
    std::shared_ptr<File> file;
    bool shares = false;
  };
  bool fails(const Handle& handle);  // this operation, by death or the disk's own end
  bool full() const { return full_; }
  bool ignores_syncs() const { return ignores_syncs_; }
  bool exists(const std::string& name) const { return files_.contains(name); }
  std::shared_ptr<File> file(const std::string& name);
  void remove(const std::string& name) { files_.erase(name); }
  int process() const { return process_; }
  Random& random() { return random_; }

 private:
  Random random_;
  std::map<std::string, std::shared_ptr<File>> files_;
  int process_ = 0;
  std::map<int, bool> dead_;
  bool full_ = false;
  int left_ = -1;
  bool ignores_syncs_ = false;
};

}  // namespace midstream::test
