// The entries of a tree in memory, a node each, found by parent and name: a million takes about 100 MB, and a directory
// moves with all that lies below it by changing one node. Pure; not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "movers/files/version.h"

namespace midstream::files {

struct Stat;

// What both hosts agreed on for one path, with the local identity that it had then.
struct Entry {
  Version version;
  std::uint64_t ino = 0;
  std::int64_t ctime_ns = 0;
  bool from_peer = false;  // the other host made this version: what it sends next knows of it
  bool racy = false;       // read so soon after a change that the same times may hide a later one
  bool linked = false;     // had several names
  bool unsure = false;     // something later was sent and may have arrived: what is there now is sent in any case
  std::uint32_t seen = 0;  // by which scan; in memory only

  // Whether what is on disk is what this entry was written for.
  bool matches(const Stat& stat) const;
};
Entry make_entry(const Version& version, const Stat& stat, bool from_peer);

// The order of entries: a directory, then what lies below it, names by their bytes; "." comes first.
bool path_before(std::string_view a, std::string_view b);

class Nodes {
 public:
  using Id = std::uint32_t;
  static constexpr Id kNone = ~Id{0};

  Nodes();

  // How many paths have an entry.
  std::size_t size() const { return present_; }
  // Bytes that are held for them.
  std::size_t memory() const;
  // kNone where the path has no entry.
  Id find(std::string_view path) const;
  std::optional<Entry> get(std::string_view path) const;
  Entry entry(Id id) const;
  std::string path(Id id) const;
  bool present(Id id) const;

  Id put(std::string_view path, const Entry& entry);
  void erase(std::string_view path);
  // Moves `from` with all below it. False, and nothing happens: `from` has no entry, `to` is known, or lies below `from`.
  bool rename(std::string_view from, std::string_view to);

  void see(Id id, std::uint32_t stamp) { at(id).seen = stamp; }
  std::uint32_t seen(Id id) const { return at(id).seen; }

  // A mark on one entry, which goes with it.
  void set_mark(Id id, bool mark);
  bool marked(Id id) const;

  // What has an entry below the directory `path`, a directory before what lies in it. `below` in no order otherwise,
  // `in_order` by path_before. An id stays valid until its entry is erased; it may stand for another one then.
  std::vector<Id> below(std::string_view path) const;
  std::vector<Id> in_order(std::string_view path) const;
  // Other paths that had this inode when it had several names.
  std::vector<std::string> names_of(std::uint64_t ino) const;

 private:
  // What few of many entries differ in: kept once.
  struct Shape {
    std::uint16_t mode = 0;
    std::uint32_t uid = 0, gid = 0;
    std::uint64_t rdev = 0, xattrs = 0;
    bool operator==(const Shape&) const = default;
  };
  struct ShapeHash {
    std::size_t operator()(const Shape& shape) const;
  };
  struct Node {
    Id parent = kNone, first_child = kNone, next = kNone, previous = kNone;
    Id chain = kNone;  // of its bucket, or of the free nodes
    std::uint32_t name = 0;
    std::uint32_t shape = 0;
    std::uint32_t seen = 0;
    std::uint64_t ino = 0, size = 0, hash = 0;
    std::int64_t ctime_ns = 0, mtime_ns = 0;
    std::uint8_t name_size = 0;
    EntryType type = EntryType::none;  // none: no entry, something below it has one
    std::uint8_t flags = 0;
  };

  Node& at(Id id) { return chunks_[id >> kChunkBits][id & kChunkMask]; }
  const Node& at(Id id) const { return chunks_[id >> kChunkBits][id & kChunkMask]; }
  std::string_view name(Id id) const;
  Id node_of(std::string_view path) const;  // with an entry or without
  Id child(Id parent, std::string_view name) const;
  Id make(std::string_view path);
  Id add_child(Id parent, std::string_view name);
  void attach(Id id, Id parent, std::string_view name);
  void detach(Id id);
  void prune(Id id);  // frees it, and what is above it, as far as nothing needs them
  void clear_entry(Id id);
  std::size_t bucket_of(Id parent, std::string_view name) const;
  void grow_buckets();
  std::uint32_t keep_name(std::string_view name);
  void drop_name(const Node& node);
  void gather_names();
  std::uint32_t keep_shape(const Shape& shape);
  void drop_shape(std::uint32_t index);
  void link(std::uint64_t ino, Id id) { links_.emplace(ino, id); }
  void unlink(std::uint64_t ino, Id id);
  std::vector<Id> walk(std::string_view path, bool ordered) const;

  static constexpr unsigned kChunkBits = 12, kNameBits = 20;
  static constexpr Id kChunkMask = (1u << kChunkBits) - 1;
  static constexpr Id kRoot = 0;

  std::vector<std::unique_ptr<Node[]>> chunks_;
  Id used_ = 0;
  Id free_ = kNone;
  std::size_t nodes_ = 0, present_ = 0;
  std::vector<Id> buckets_;
  std::vector<std::unique_ptr<char[]>> names_;
  std::size_t name_end_ = 0, name_waste_ = 0;
  std::vector<std::pair<Shape, std::uint32_t>> shapes_;  // and how many use it
  std::vector<std::uint32_t> free_shapes_;
  std::unordered_map<Shape, std::uint32_t, ShapeHash> shape_ids_;
  std::unordered_multimap<std::uint64_t, Id> links_;
};

}  // namespace midstream::files
