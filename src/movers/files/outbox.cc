#include "movers/files/outbox.h"

#include <algorithm>

#include "base/text.h"
#include "movers/files/path.h"

namespace midstream::files {

namespace {
constexpr std::size_t kFlushBytes = 512u << 10;
constexpr std::size_t kFlushCount = 2048;
constexpr std::uint64_t kWindowBytes = 256u << 20;
constexpr std::uint64_t kWindowPaths = 100'000;
constexpr std::size_t kMaxTroubles = 1000;
constexpr int kMostDoublings = 2;  // what could not be put there is sent again within 2 s: who waits for it waits no longer
}  // namespace

void Outbox::open(std::shared_ptr<Stream> stream, std::stop_token stop) {
  courier_ = std::make_unique<Courier>(std::move(stream));
  stop_ = std::move(stop);
  const std::lock_guard lock(mutex_);
  figures_.sequence = figures_.applied = figures_.durable = 0;
}

void Outbox::close() {
  courier_.reset();
  batch_ = {};
  next_ = {};
  {
    const std::lock_guard lock(tree_.mutex);
    while (!tree_.renaming.empty()) {
      const auto [from, to] = tree_.renaming.back();
      tree_.renaming.pop_back();
      tree_.index->split_rename(from, to);
      tree_.dirty.mark(from, Millis(0));
      tree_.dirty.mark(to, Millis(0), kTree);
    }
    for (const auto& [path, sent] : tree_.sent) {
      tree_.dirty.mark(path, Millis(0));
    }
    tree_.sent.clear();
  }
  const std::lock_guard lock(mutex_);
  flights_.clear();
  flight_bytes_ = flight_paths_ = part_bytes_ = 0;
  figures_.sequence = figures_.applied = figures_.durable = 0;
  figures_.pending = 0;
  figures_.oldest_ns = 0;
}

// The other host makes the directories that it lacks: whatever becomes of them here, that they are gone must be told there.
void Outbox::note_parents(std::string_view path) {
  for (auto parent = parent_of(path); parent != "."; parent = parent_of(parent)) {
    const auto known = tree_.known(parent);
    if (known && known->version.present()) return;
    Entry entry;
    entry.version.type = EntryType::directory;
    tree_.index->note_sent(parent, entry);
    if (!known) continue;
    entry.unsure = true;  // that it is gone is on its way, and comes first
    tree_.sent[std::string(parent)] = Sent{next_.sequence + 1, entry};
    next_.paths.emplace_back(parent);
  }
}

void Outbox::add(const Change& change, const Entry& entry) {
  if (batch_.empty()) next_.at_ns = boot_now().count();
  const std::string path(change.path);
  tree_.sent[path] = Sent{next_.sequence + 1, entry};
  if (change.op != Op::gone) note_parents(path);
  if (change.op == Op::rename) {
    tree_.index->note_renaming(change.from, path);
  } else {
    tree_.index->note_sent(path, entry);
  }
  batch_.add(change);
  next_.paths.push_back(path);
  if (change.op == Op::rename) next_.renames.emplace_back(change.from, path);
  if (change.version.type == EntryType::file && change.op != Op::rename) {
    ++next_.files;
    next_.file_bytes += change.version.size;
  }
}

Result<> Outbox::flush_if_large() {
  if (batch_.bytes() < kFlushBytes && batch_.count() < kFlushCount) return {};
  return flush();
}

Result<> Outbox::flush() {
  if (batch_.empty()) return {};
  const auto sequence = next_.sequence + 1;
  const auto count = batch_.count();
  auto frame = batch_.take(sequence);
  {
    const std::lock_guard lock(tree_.mutex);
    CHECK_OK(tree_.index->write_ahead());
  }
  {
    const std::lock_guard lock(mutex_);
    auto flight = std::exchange(next_, Flight{});
    next_.sequence = flight.sequence = sequence;
    flight.bytes = frame.size() + std::exchange(part_bytes_, 0);
    flight_bytes_ += flight.bytes;
    flight_paths_ += flight.paths.size();
    figures_.sequence = sequence;
    figures_.sent_changes += count;
    figures_.sent_bytes += frame.size();
    flights_.push_back(std::move(flight));
  }
  return send(std::move(frame));
}

Result<> Outbox::send(std::string frame) { return courier_->send(std::move(frame), stop_); }

void Outbox::count_bytes(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  figures_.sent_bytes += bytes;
  part_bytes_ += bytes;  // under way once their file's change is
}

bool Outbox::full() {
  const std::lock_guard lock(mutex_);
  return !flights_.empty() && (flight_bytes_ > kWindowBytes || flight_paths_ > kWindowPaths);
}

// The other host has it on disk: from now on this is what both agree on.
void Outbox::commit(const Flight& flight) {
  settle_renames(flight);
  for (const auto& path : flight.paths) {
    const auto it = tree_.sent.find(path);
    if (it == tree_.sent.end() || it->second.sequence != flight.sequence) continue;
    if (it->second.entry.version.present()) {
      tree_.index->put(path, it->second.entry);
    } else {
      tree_.index->erase(path);
    }
    tree_.sent.erase(it);
  }
}

// Where what became `to` in that batch came from, if that is what it did.
std::optional<std::string> Outbox::failed_rename(const std::string& wanted, std::uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  for (const auto& flight : flights_) {
    if (flight.sequence != sequence) continue;
    for (const auto& [from, to] : flight.renames) {
      if (to == wanted) return from;
    }
  }
  return std::nullopt;
}

void Outbox::fail(const Failure& failure, std::uint64_t sequence) {
  mark_failed(failure, sequence);
  const std::lock_guard lock(mutex_);
  ++figures_.refused;  // last: who counts it finds the marks
}

void Outbox::mark_failed(const Failure& failure, std::uint64_t sequence) {
  const std::string path(failure.path);
  if (const auto from = failed_rename(path, sequence)) return doubt_rename(*from, path);
  tree_.sent.erase(path);
  if (failure.need_content) return tree_.dirty.mark(path, Millis(0), kForce);
  const std::lock_guard lock(mutex_);
  const int times = failures_[path]++;
  if (figures_.troubles.size() < kMaxTroubles) figures_.troubles[path] = printable(failure.text);
  tree_.dirty.mark(path, Millis(500) * (1 << std::min(times, kMostDoublings)));
}

void Outbox::nothing_to_send(const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (failures_.empty()) return;
  failures_.erase(path);
  figures_.troubles.erase(path);
}

void Outbox::acknowledge(const Ack& ack) {
  {
    const std::lock_guard tree_lock(tree_.mutex);
    for (const auto& failure : ack.failures) fail(failure, ack.applied);
    std::deque<Flight> done;
    {
      const std::lock_guard lock(mutex_);
      figures_.applied = std::max(figures_.applied, ack.applied);
      figures_.durable = std::max(figures_.durable, ack.durable);
      while (!flights_.empty() && flights_.front().sequence <= ack.durable) {
        flight_bytes_ -= std::min(flight_bytes_, flights_.front().bytes);
        flight_paths_ -= flights_.front().paths.size();
        figures_.durable_files += flights_.front().files;
        figures_.durable_bytes += flights_.front().file_bytes;
        for (const auto& path : flights_.front().paths) {
          if (failures_.empty()) continue;
          const auto sent = tree_.sent.find(path);  // what failed is no longer, or sent again
          if (sent == tree_.sent.end() || sent->second.sequence != flights_.front().sequence) continue;
          failures_.erase(path);
          figures_.troubles.erase(path);
        }
        done.push_back(std::move(flights_.front()));
        flights_.pop_front();
      }
    }
    for (const auto& flight : done) commit(flight);
    // Not made durable here: what is lost with the power is compared again.
    if (!done.empty() && !write_index(tree_)) tree_.dirty.poke();
  }
  if (progressed) progressed();
}

Outbox::Figures Outbox::figures() {
  const std::lock_guard lock(mutex_);
  auto out = figures_;
  for (const auto& flight : flights_) {
    if (flight.sequence <= out.applied) continue;
    out.pending += flight.paths.size();
    if (out.oldest_ns == 0) out.oldest_ns = flight.at_ns;
  }
  return out;
}

}  // namespace midstream::files
