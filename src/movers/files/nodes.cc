#include "movers/files/nodes.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "movers/files/path.h"
#include "movers/files/root.h"

namespace midstream::files {

namespace {
enum Flag : std::uint8_t { kFromPeer = 1, kRacy = 2, kLinked = 4, kMarked = 8, kUnsure = 16 };
constexpr std::size_t kWasteKept = 1u << 20;
}  // namespace

bool Entry::matches(const Stat& stat) const {
  if (racy || unsure || version.type != stat.type || ino != stat.ino || version.mtime_ns != stat.mtime_ns) return false;
  return ctime_ns == stat.ctime_ns && version.size == stat.size;
}

Entry make_entry(const Version& version, const Stat& stat, bool from_peer) {
  Entry entry;
  entry.version = version;
  entry.ino = stat.ino;
  entry.ctime_ns = stat.ctime_ns;
  entry.from_peer = from_peer;
  entry.linked = stat.nlink > 1 && stat.type == EntryType::file;
  return entry;
}

bool path_before(std::string_view a, std::string_view b) {
  if (a == "." || b == ".") return a == "." && b != ".";
  const auto size = std::min(a.size(), b.size());
  const auto [x, y] = std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(size), b.begin());
  if (x == a.begin() + static_cast<std::ptrdiff_t>(size)) return a.size() < b.size();
  // A name ends where '/' stands: before every longer name.
  if (*x == '/' || *y == '/') return *x == '/';
  return static_cast<unsigned char>(*x) < static_cast<unsigned char>(*y);
}

std::size_t Nodes::ShapeHash::operator()(const Shape& shape) const {
  std::uint64_t hash = shape.xattrs ^ (shape.rdev << 7);
  for (const std::uint64_t part : {std::uint64_t{shape.mode}, std::uint64_t{shape.uid}, std::uint64_t{shape.gid}})
    hash = (hash ^ part) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

Nodes::Nodes() : buckets_(1024, kNone) {
  chunks_.push_back(std::make_unique<Node[]>(kChunkMask + 1));
  used_ = nodes_ = 1;  // the root, which is never freed
}

std::string_view Nodes::name(Id id) const {
  const auto& node = at(id);
  return {names_.empty() ? nullptr : names_[node.name >> kNameBits].get() + (node.name & ((1u << kNameBits) - 1)), node.name_size};
}

std::size_t Nodes::bucket_of(Id parent, std::string_view name) const {
  return XXH3_64bits_withSeed(name.data(), name.size(), parent) & (buckets_.size() - 1);
}

Nodes::Id Nodes::child(Id parent, std::string_view wanted) const {
  for (auto id = buckets_[bucket_of(parent, wanted)]; id != kNone; id = at(id).chain) {
    if (at(id).parent == parent && name(id) == wanted) return id;
  }
  return kNone;
}

Nodes::Id Nodes::node_of(std::string_view path) const {
  if (path == ".") return kRoot;
  Id id = kRoot;
  while (id != kNone) {
    const auto slash = path.find('/');
    id = child(id, path.substr(0, slash));
    if (slash == path.npos) break;
    path.remove_prefix(slash + 1);
  }
  return id;
}

bool Nodes::present(Id id) const { return at(id).type != EntryType::none; }

Nodes::Id Nodes::find(std::string_view path) const {
  const auto id = node_of(path);
  return id != kNone && present(id) ? id : kNone;
}

std::optional<Entry> Nodes::get(std::string_view path) const {
  const auto id = find(path);
  return id == kNone ? std::nullopt : std::optional(entry(id));
}

Entry Nodes::entry(Id id) const {
  const auto& node = at(id);
  const auto& shape = shapes_[node.shape].first;
  Entry out;
  out.version = Version{.type = node.type, .mode = shape.mode, .uid = shape.uid, .gid = shape.gid, .mtime_ns = node.mtime_ns,
                        .size = node.size, .rdev = shape.rdev, .hash = node.hash, .xattrs = shape.xattrs};
  out.ino = node.ino;
  out.ctime_ns = node.ctime_ns;
  out.from_peer = node.flags & kFromPeer;
  out.racy = node.flags & kRacy;
  out.linked = node.flags & kLinked;
  out.unsure = node.flags & kUnsure;
  out.seen = node.seen;
  return out;
}

std::string Nodes::path(Id id) const {
  if (id == kRoot) return ".";
  std::vector<std::string_view> parts;
  std::size_t size = 0;
  for (; id != kRoot; id = at(id).parent) {
    parts.push_back(name(id));
    size += parts.back().size() + 1;
  }
  std::string out;
  out.reserve(size);
  for (auto it = parts.rbegin(); it != parts.rend(); ++it) {
    if (!out.empty()) out += '/';
    out += *it;
  }
  return out;
}

void Nodes::grow_buckets() {
  if (nodes_ < buckets_.size()) return;
  std::vector<Id> wider(buckets_.size() * 2, kNone);
  buckets_.swap(wider);
  for (auto head : wider) {
    while (head != kNone) {
      const auto next = at(head).chain;
      auto& bucket = buckets_[bucket_of(at(head).parent, name(head))];
      at(head).chain = std::exchange(bucket, head);
      head = next;
    }
  }
}

std::uint32_t Nodes::keep_name(std::string_view name) {
  constexpr std::size_t kBlock = std::size_t{1} << kNameBits;
  if (names_.empty() || (name_end_ & (kBlock - 1)) + name.size() > kBlock || name_end_ == names_.size() * kBlock) {
    name_end_ = names_.size() * kBlock;
    names_.push_back(std::make_unique<char[]>(kBlock));
  }
  const auto place = static_cast<std::uint32_t>(name_end_);
  std::memcpy(names_[place >> kNameBits].get() + (place & (kBlock - 1)), name.data(), name.size());
  name_end_ += name.size();
  return place;
}

void Nodes::drop_name(const Node& node) { name_waste_ += node.name_size; }

// Copies the names that are in use, once most of what is kept is not.
void Nodes::gather_names() {
  if (name_waste_ < kWasteKept || name_waste_ * 2 < name_end_) return;
  auto old = std::exchange(names_, {});
  name_end_ = name_waste_ = 0;
  for (Id id = 1; id < used_; ++id) {
    auto& node = at(id);
    if (node.parent == kNone) continue;
    node.name = keep_name({old[node.name >> kNameBits].get() + (node.name & ((1u << kNameBits) - 1)), node.name_size});
  }
}

std::uint32_t Nodes::keep_shape(const Shape& shape) {
  const auto [it, fresh] = shape_ids_.try_emplace(shape, 0);
  if (!fresh) {
    ++shapes_[it->second].second;
    return it->second;
  }
  if (free_shapes_.empty()) {
    it->second = static_cast<std::uint32_t>(shapes_.size());
    shapes_.emplace_back(shape, 1);
  } else {
    it->second = free_shapes_.back();
    free_shapes_.pop_back();
    shapes_[it->second] = {shape, 1};
  }
  return it->second;
}

void Nodes::drop_shape(std::uint32_t index) {
  if (--shapes_[index].second > 0) return;
  shape_ids_.erase(shapes_[index].first);
  free_shapes_.push_back(index);
}

void Nodes::attach(Id id, Id parent, std::string_view name) {
  auto& node = at(id);
  node.parent = parent;
  node.name = keep_name(name);
  node.name_size = static_cast<std::uint8_t>(name.size());
  auto& bucket = buckets_[bucket_of(parent, name)];
  node.chain = std::exchange(bucket, id);
  node.previous = kNone;
  node.next = std::exchange(at(parent).first_child, id);
  if (node.next != kNone) at(node.next).previous = id;
}

void Nodes::detach(Id id) {
  auto& node = at(id);
  auto* link = &buckets_[bucket_of(node.parent, name(id))];
  while (*link != id) link = &at(*link).chain;
  *link = node.chain;
  (node.previous == kNone ? at(node.parent).first_child : at(node.previous).next) = node.next;
  if (node.next != kNone) at(node.next).previous = node.previous;
  drop_name(node);
  node.parent = kNone;
}

Nodes::Id Nodes::add_child(Id parent, std::string_view name) {
  grow_buckets();
  gather_names();
  auto id = free_;
  if (id != kNone) {
    free_ = at(id).chain;
  } else {
    if ((used_ & kChunkMask) == 0) chunks_.push_back(std::make_unique<Node[]>(kChunkMask + 1));
    id = used_++;
  }
  at(id) = Node{};
  ++nodes_;
  attach(id, parent, name);
  return id;
}

Nodes::Id Nodes::make(std::string_view path) {
  if (path == ".") return kRoot;
  Id id = kRoot;
  while (true) {
    const auto slash = path.find('/');
    const auto part = path.substr(0, slash);
    const auto next = child(id, part);
    id = next == kNone ? add_child(id, part) : next;
    if (slash == path.npos) return id;
    path.remove_prefix(slash + 1);
  }
}

void Nodes::prune(Id id) {
  while (id != kRoot && !present(id) && at(id).first_child == kNone) {
    const auto parent = at(id).parent;
    detach(id);
    at(id).chain = std::exchange(free_, id);
    --nodes_;
    id = parent;
  }
}

void Nodes::clear_entry(Id id) {
  auto& node = at(id);
  if (node.type == EntryType::none) return;
  if (node.flags & kLinked) unlink(node.ino, id);
  drop_shape(node.shape);
  node.type = EntryType::none;
  node.flags = 0;
  --present_;
}

Nodes::Id Nodes::put(std::string_view path, const Entry& entry) {
  const auto& v = entry.version;
  const auto id = make(path);
  const auto shape = keep_shape({v.mode, v.uid, v.gid, v.rdev, v.xattrs});
  const std::uint8_t mark = at(id).flags & kMarked;
  clear_entry(id);
  auto& node = at(id);
  node.shape = shape;
  node.type = v.type;
  node.mtime_ns = v.mtime_ns;
  node.size = v.size;
  node.hash = v.hash;
  node.ino = entry.ino;
  node.ctime_ns = entry.ctime_ns;
  node.seen = entry.seen;
  node.flags = static_cast<std::uint8_t>((entry.from_peer ? kFromPeer : 0) | (entry.racy ? kRacy : 0) | (entry.linked ? kLinked : 0) | (entry.unsure ? kUnsure : 0) | mark);
  if (entry.linked) link(entry.ino, id);
  ++present_;
  return id;
}

void Nodes::erase(std::string_view path) {
  const auto id = find(path);
  if (id == kNone) return;
  clear_entry(id);
  prune(id);
}

bool Nodes::rename(std::string_view from, std::string_view to) {
  const auto id = find(from);
  if (id == kNone || id == kRoot || to == "." || from == to || is_below(to, from)) return false;
  if (node_of(to) != kNone) return false;
  const auto parent = make(parent_of(to));
  const auto before = at(id).parent;
  detach(id);
  attach(id, parent, leaf_of(to));
  gather_names();
  prune(before);
  return true;
}

void Nodes::set_mark(Id id, bool mark) {
  auto& flags = at(id).flags;
  flags = static_cast<std::uint8_t>(mark ? flags | kMarked : flags & ~kMarked);
}

bool Nodes::marked(Id id) const { return at(id).flags & kMarked; }

void Nodes::unlink(std::uint64_t ino, Id id) {
  auto [first, last] = links_.equal_range(ino);
  for (; first != last; ++first) {
    if (first->second != id) continue;
    links_.erase(first);
    return;
  }
}

std::vector<Nodes::Id> Nodes::walk(std::string_view path, bool ordered) const {
  std::vector<Id> out, todo;
  const auto top = node_of(path);
  if (top == kNone) return out;
  if (path == "." && present(kRoot)) out.push_back(kRoot);
  const auto push_children = [&](Id id) {
    const auto from = static_cast<std::ptrdiff_t>(todo.size());
    for (auto child = at(id).first_child; child != kNone; child = at(child).next) todo.push_back(child);
    if (ordered) std::sort(todo.begin() + from, todo.end(), [&](Id a, Id b) { return name(a) > name(b); });
  };
  push_children(top);
  while (!todo.empty()) {
    const auto id = todo.back();
    todo.pop_back();
    if (present(id)) out.push_back(id);
    push_children(id);
  }
  return out;
}

std::size_t Nodes::memory() const {
  return chunks_.size() * (kChunkMask + 1) * sizeof(Node) + buckets_.size() * sizeof(Id) + (names_.size() << kNameBits) +
         shapes_.capacity() * sizeof(shapes_[0]);
}

std::vector<Nodes::Id> Nodes::below(std::string_view path) const { return walk(path, false); }
std::vector<Nodes::Id> Nodes::in_order(std::string_view path) const { return walk(path, true); }

std::vector<std::string> Nodes::names_of(std::uint64_t ino) const {
  std::vector<std::string> out;
  auto [first, last] = links_.equal_range(ino);
  for (; first != last; ++first) out.push_back(path(first->second));
  return out;
}

}  // namespace midstream::files
