#include "movers/files/dirty.h"

#include <algorithm>

namespace midstream::files {

namespace {
std::int64_t now_ns() { return boot_now().count(); }
std::int64_t in_ns(Millis span) { return std::chrono::nanoseconds(span).count(); }
}  // namespace

void DirtySet::schedule(const std::string& path, Mark& mark, std::int64_t due_ns) {
  mark.due_ns = due_ns;
  ++changes_;
  queue_.emplace(due_ns, path);
}

void DirtySet::mark(const std::string& path, Millis settle, unsigned how) {
  const std::lock_guard lock(mutex_);
  const auto now = now_ns();
  const auto [it, fresh] = marks_.try_emplace(path);
  auto& mark = it->second;
  mark.force |= (how & kForce) != 0;
  mark.tree |= (how & kTree) != 0;
  if (fresh) {
    mark.first_ns = now;
    mark.serial = serial_++;
  }
  const auto due = now + in_ns(settle);
  if (fresh || due < mark.due_ns) schedule(path, mark, due);
  changed_.notify_all();
}

void DirtySet::put_back(const std::string& path, Mark mark, Millis settle) {
  const std::lock_guard lock(mutex_);
  const auto [it, fresh] = marks_.try_emplace(path, mark);
  auto& now_marked = it->second;
  now_marked.force |= mark.force;
  now_marked.tree |= mark.tree;
  now_marked.tries = std::max(now_marked.tries, mark.tries);
  now_marked.settled |= mark.settled;
  now_marked.first_ns = std::min(now_marked.first_ns, mark.first_ns);
  now_marked.serial = std::min(now_marked.serial, mark.serial);
  // Whoever marked it anew while it was being looked at does not make a changing file due any earlier.
  schedule(path, now_marked, now_ns() + in_ns(settle));
  changed_.notify_all();
}

std::vector<std::pair<std::string, Mark>> DirtySet::take(std::size_t limit) {
  const std::lock_guard lock(mutex_);
  const auto now = now_ns();
  std::vector<std::pair<std::string, Mark>> out;
  while (!queue_.empty() && out.size() < limit) {
    const auto row = queue_.begin();
    if (!urgent_ && row->first > now) break;
    const auto it = marks_.find(row->second);
    if (it != marks_.end() && it->second.due_ns == row->first) {
      busy_.push_back(it->second);
      out.emplace_back(it->first, it->second);
      marks_.erase(it);
    }
    queue_.erase(row);
  }
  return out;
}

void DirtySet::done() {
  const std::lock_guard lock(mutex_);
  busy_.clear();
  changed_.notify_all();
}

void DirtySet::set_urgent(bool urgent) {
  const std::lock_guard lock(mutex_);
  urgent_ = urgent;
  ++changes_;
  changed_.notify_all();
}

bool DirtySet::due_locked() const {
  return !queue_.empty() && (urgent_ || queue_.begin()->first <= now_ns());
}

void DirtySet::wait(Millis span, const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  const auto end = now_ns() + in_ns(span);
  while (!poked_ && !due_locked() && !stop.stop_requested() && now_ns() < end) {
    const auto until = queue_.empty() ? end : std::min(end, queue_.begin()->first);
    const auto seen = changes_;
    changed_.wait_for(lock, stop, std::chrono::nanoseconds(until - now_ns()), [&] { return changes_ != seen; });
  }
  poked_ = false;
}

void DirtySet::poke() {
  const std::lock_guard lock(mutex_);
  poked_ = true;
  ++changes_;
  changed_.notify_all();
}

bool DirtySet::any_due() {
  const std::lock_guard lock(mutex_);
  return due_locked();
}

std::size_t DirtySet::size() {
  const std::lock_guard lock(mutex_);
  return marks_.size() + busy_.size();
}

std::uint64_t DirtySet::next_serial() {
  const std::lock_guard lock(mutex_);
  return serial_;
}

bool DirtySet::clean_before(std::uint64_t serial) {
  const std::lock_guard lock(mutex_);
  const auto older = [&](const Mark& mark) { return mark.serial < serial; };
  return std::ranges::none_of(busy_, older) &&
         std::ranges::none_of(marks_, [&](const auto& row) { return older(row.second); });
}

std::int64_t DirtySet::oldest_ns() {
  const std::lock_guard lock(mutex_);
  std::int64_t oldest = 0;
  const auto consider = [&](const Mark& mark) {
    if (oldest == 0 || mark.first_ns < oldest) oldest = mark.first_ns;
  };
  for (const auto& mark : busy_) consider(mark);
  for (const auto& [path, mark] : marks_) consider(mark);
  return oldest;
}

}  // namespace midstream::files
