// Looks at paths of the tree and puts what differs from what both hosts agreed on into the outbox. One thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "movers/files/outbox.h"
#include "movers/files/path.h"
#include "movers/files/tree.h"

struct XXH3_state_s;

namespace midstream::files {

class Scout {
 public:
  Scout(Tree& tree, Outbox& outbox, Except except, std::stop_token stop);
  ~Scout();

  // Looks at one path now. An error is the link's, or a guard's (refused): the caller stops the session.
  Result<> look(const std::string& path, Mark mark);

  // A walk over everything, begun anew if one is under way.
  void rescan();
  bool scanning() const { return !scans_.empty(); }
  // A bounded piece of the walk.
  Result<> scan_step();
  // Full walks that ended so far.
  std::uint64_t scans_done() const { return scans_done_; }

  // After a power cut a file that changed before this run of the host, or is empty since, may be what the cut left of
  // a change: it is not sent, it is to be mended. With `unknown_too` also one that the index knows nothing of: what
  // arrived and was never synced can come back as zeros, and what the index had of it not at all. Before everything is
  // copied once nothing has arrived, and what is unknown is merely not sent yet.
  void distrust_disk(bool distrust, bool unknown_too) { distrust_ = distrust, unknown_too_ = unknown_too; }
  const std::vector<std::string>& lost() const { return lost_; }
  void found_again() { lost_.pop_back(); }
  void note_trouble(const std::string& path, std::string why);

  // Files too large for a batch wait in a queue and leave a piece at a time.
  bool sending_large() const { return large_.has_value() || !queue_.empty(); }
  Result<> large_step();
  // The link is gone: what was under way is marked again.
  void abandon_large();

  std::uint64_t seen_files() const { return seen_files_; }
  std::uint64_t seen_bytes() const { return seen_bytes_; }
  std::uint64_t equal_files() const { return equal_files_; }
  std::uint64_t equal_bytes() const { return equal_bytes_; }
  std::uint64_t sockets() const { return sockets_; }
  // What cannot be read or sent, for the operator; "" where nothing.
  std::string trouble() const;

 private:
  struct Scan {
    std::string top;
    std::uint32_t stamp = 0;
    std::vector<std::string> todo;
    std::string directory;  // the one being read
    std::optional<Place> place;
    std::vector<Name> names;
    std::size_t next = 0;
    bool failed = false;  // something could not be read: nothing is taken for deleted
    std::string why;
  };
  struct Large {
    std::string path;
    Mark mark;
    std::uint32_t file = 0;
    Fd fd;
    Stat before;
    Xattrs xattrs;
    std::uint64_t offset = 0;
    std::uint64_t data_end = 0;  // where the next hole begins
    std::shared_ptr<XXH3_state_s> hash;
  };

  Result<> look_at_place(const std::string& path, Mark mark, const Place& place, const Stat& stat);
  enum class Renamed { yes, later, no };
  Renamed may_rename(const std::string& from, const std::string& to, const Mark& mark);
  Result<Renamed> try_rename(const std::string& from, const std::string& to, const Mark& mark);
  // Whether that was sent, or will be tried again by `path`, one of the two: it need not be sent otherwise.
  Result<bool> renamed_instead(const std::string& from, const std::string& to, const std::string& path, const Mark& mark);
  Result<> look_gone(const std::string& path, bool with_children);
  Result<> children_gone(const std::string& path);
  Result<> send_parents(const std::string& path);
  Result<> send_content(const std::string& path, Mark mark, const Place& place, const Stat& stat);
  void sort_out(const std::string& path, Mark mark, Result<Loaded>& loaded);
  void emit(const std::string& path, const Loaded& loaded, bool force, bool unsteady);
  Result<> guard_root();
  bool is_suspect(const std::string& path, const Stat& stat);

  Result<> enter_directory(Scan& scan);
  Result<> visit(Scan& scan, const Name& name);
  Result<bool> visit_new(Scan& scan, const std::string& path, const Name& name);
  Result<> finish_scan(Scan& scan);

  Result<> begin_large(const std::string& path, Mark mark);
  Result<> end_large();
  void put_large_back(Millis settle);

  Tree& tree_;
  Outbox& outbox_;
  const Except except_;
  const std::stop_token stop_;
  std::deque<Scan> scans_;
  bool distrust_ = false;
  bool unknown_too_ = false;
  std::vector<std::string> lost_;
  std::uint32_t stamp_ = 0;
  std::uint32_t walking_ = 0;  // the stamp of the walk that meets what is looked at, 0: none does
  std::atomic<std::uint64_t> scans_done_{0};
  std::deque<std::pair<std::string, Mark>> queue_;
  std::set<std::string> queued_;
  std::optional<Large> large_;
  std::uint32_t large_number_ = 0;
  std::int64_t asked_durable_ns_ = 0;
  std::atomic<std::uint64_t> seen_files_{0}, seen_bytes_{0}, equal_files_{0}, equal_bytes_{0}, sockets_{0};
  mutable std::mutex trouble_mutex_;
  std::map<std::string, std::string> troubles_;
};

}  // namespace midstream::files
