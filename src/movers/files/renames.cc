#include "movers/files/renames.h"

namespace midstream::files {

namespace {
constexpr std::size_t kMost = 4096;
std::optional<std::string> at(const std::map<std::string, std::string>& map, const std::string& key) {
  const auto it = map.find(key);
  return it == map.end() ? std::nullopt : std::optional(it->second);
}
}  // namespace

void Renames::forget_locked(const std::string& from) {
  const auto it = to_.find(from);
  if (it == to_.end()) return;
  from_.erase(it->second);
  to_.erase(it);
}

void Renames::note(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  if (to_.size() >= kMost) to_.clear(), from_.clear();
  auto first = from;
  if (const auto it = from_.find(from); it != from_.end()) {
    first = it->second;
    forget_locked(first);
  }
  if (const auto it = from_.find(to); it != from_.end()) forget_locked(std::string(it->second));
  forget_locked(first);
  if (first == to) return;  // back where it was
  to_[first] = to;
  from_[to] = first;
}

std::optional<std::string> Renames::to(const std::string& from) const {
  const std::lock_guard lock(mutex_);
  return at(to_, from);
}

std::optional<std::string> Renames::from(const std::string& to) const {
  const std::lock_guard lock(mutex_);
  return at(from_, to);
}

void Renames::forget(const std::string& from) {
  const std::lock_guard lock(mutex_);
  forget_locked(from);
}

}  // namespace midstream::files
