// What both hosts agreed on, path by path, with the local identity that it had then: the memory that makes a
// restart cost what changed. Durable: an append-only log of checked records, compacted when it is opened.
// A checkpoint in the log says: what the records before it speak of was on this host's disk. What comes behind the
// last one is unproven: after a power cut nobody knows whether the file system still has it.
// Not thread-safe: its tree's mutex guards it.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "movers/files/nodes.h"
#include "movers/files/version.h"
#include "sys/fd.h"

namespace midstream::files {

class Index {
 public:
  // Reads or begins the log `file`. A torn or damaged end is cut off: what it held is merely compared again.
  static Result<std::unique_ptr<Index>> open(const std::filesystem::path& file);

  std::optional<Entry> find(std::string_view path) const { return nodes_.get(path); }
  void put(std::string_view path, const Entry& entry);
  void erase(std::string_view path);
  // How many paths have an entry, and all of them, to look at.
  std::size_t size() const { return nodes_.size(); }
  const Nodes& nodes() const { return nodes_; }
  std::vector<std::string> names_of(std::uint64_t ino) const { return nodes_.names_of(ino); }
  // Notes that a scan has met the path, and gives what is known of it.
  std::optional<Entry> see(std::string_view path, std::uint32_t stamp);

  // Moves the entry `from` with all below it, at once; the log follows with note_renaming() before it is sent,
  // and with note_rename() or split_rename() once it is known what became of it. Meanwhile nothing below `to` may be put but by refresh(). False, and nothing happens: `from` has
  // no entry, `to` is known already, or lies below `from`.
  bool rename(std::string_view from, std::string_view to) { return nodes_.rename(from, to); }
  void note_rename(std::string_view from, std::string_view to);
  // What is about to be sent, to be written with write_ahead() before it is: whatever becomes of it, the path is known from
  // then on, so that its end can be told to the other host. `entry` is what is sent, none for a removal.
  void note_sent(std::string_view path, const Entry& entry);
  void note_renaming(std::string_view from, std::string_view to);
  Result<> write_ahead();
  // What was noted so since take_records(): to be written behind those records, which are older, and behind their checkpoint.
  const std::string& ahead_since_take() const { return ahead_since_take_; }
  // Nobody knows whether the rename was carried out there, or it was refused: all that is below its new path is known, unsure, by both paths.
  void split_rename(std::string_view from, std::string_view to);
  // The local identity of what is known: in memory only, so that losing it costs a comparison.
  void refresh(std::string_view path, const Entry& entry);

  // Small facts kept with the index; "" where never set.
  std::string fact(const std::string& key) const;
  void set_fact(const std::string& key, const std::string& value);

  // Changes since the last take, as records; write_records() makes them durable. The two are apart so that what
  // they speak of can be synced in between, without a lock held.
  std::string take_records();
  Result<> write_records(std::string_view records, bool sync);
  void put_back(std::string records);  // what could not be written
  std::size_t pending_bytes() const { return pending_.size(); }

  // To follow the records that were taken when nothing but what they speak of, or older, was in the file system that
  // has been synced since.
  static std::string checkpoint_record();
  // Changes since the last checkpoint was taken, in memory: whether another would prove anything.
  std::size_t since_checkpoint() const { return since_checkpoint_; }
  void checkpointed(std::size_t changes) { since_checkpoint_ -= std::min(changes, since_checkpoint_); }
  // Whether the log, as it was opened, spoke of `path` behind its last checkpoint.
  bool unproven(std::string_view path) const;

 private:
  void split(std::string_view from, std::string_view to);
  void record_ahead(std::string_view payload);
  void merge(std::string_view from, std::string_view to);
  Result<> replay(std::size_t& good);
  Result<> apply_record(std::string_view payload);
  Result<> apply_put(std::string_view path, class Reader& in);
  Result<> apply_rename(std::uint8_t kind, std::string_view from, std::string_view to);
  void doubt(std::string_view path);
  void clear_doubts();
  Result<> compact();
  void record(std::string_view payload);

  std::filesystem::path file_;
  Fd log_;
  Nodes nodes_;
  std::map<std::string, std::string> facts_;
  std::string pending_;
  std::string ahead_;
  std::string ahead_since_take_;
  std::vector<std::pair<std::string, std::string>> renaming_;  // while the log is read: begun, and not ended yet
  // When it was opened, what stood behind the last checkpoint: marked in `nodes_` and listed here, or, where it is known no
  // more, by its path.
  std::vector<Nodes::Id> doubted_;
  std::set<std::string, std::less<>> doubted_gone_;
  std::size_t records_ = 0;
  std::size_t since_checkpoint_ = 0;
};

}  // namespace midstream::files
