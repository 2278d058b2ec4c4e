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
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "movers/files/root.h"
#include "movers/files/version.h"
#include "sys/fd.h"

namespace midstream::files {

struct Entry {
  Version version;
  std::uint64_t ino = 0;
  std::int64_t ctime_ns = 0;
  bool from_peer = false;  // the other host made this version: what it sends next knows of it
  bool racy = false;       // read so soon after a change that the same times may hide a later one
  bool linked = false;     // had several names
  std::uint32_t seen = 0;  // by which scan; in memory only

  // Whether what is on disk is what this entry was written for.
  bool matches(const Stat& stat) const;
};
Entry make_entry(const Version& version, const Stat& stat, bool from_peer);

class Index {
 public:
  using Map = std::map<std::string, Entry, std::less<>>;

  // Reads or begins the log `file`. A torn or damaged end is cut off: what it held is merely compared again.
  static Result<std::unique_ptr<Index>> open(const std::filesystem::path& file);

  const Entry* find(std::string_view path) const;
  Entry* find(std::string_view path);
  void put(std::string_view path, const Entry& entry);
  void erase(std::string_view path);
  const Map& entries() const { return entries_; }
  // [first, last) of what lies below the directory `path`, in order.
  std::pair<Map::const_iterator, Map::const_iterator> below(std::string_view path) const;
  // Other paths that had this inode when it had several names.
  std::vector<std::string> names_of(std::uint64_t ino) const;

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
  bool unproven(std::string_view path) const { return unproven_.contains(path); }

 private:
  Result<> replay(std::string_view log, std::size_t& good);
  Result<> apply_record(std::string_view payload);
  Result<> compact();
  void record(std::string_view payload);
  void link(std::uint64_t ino, std::string_view path);
  void unlink(const Entry& entry, std::string_view path);

  std::filesystem::path file_;
  Fd log_;
  Map entries_;
  std::unordered_multimap<std::uint64_t, std::string> links_;
  std::map<std::string, std::string> facts_;
  std::string pending_;
  std::set<std::string, std::less<>> unproven_;  // when it was opened
  std::size_t records_ = 0;
  std::size_t since_checkpoint_ = 0;
};

}  // namespace midstream::files
