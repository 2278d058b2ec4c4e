#include "movers/files/incoming.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <map>
#include <thread>

#include "base/text.h"
#include "movers/files/apply.h"
#include "movers/files/intake.h"
#include "movers/files/wire.h"

namespace midstream::files {

namespace {

constexpr std::size_t kMaxStaged = 8;  // files arriving in parts at one time
constexpr std::uint64_t kCheckpointBytes = 128u << 20;
constexpr auto kWrite = std::chrono::seconds(30);

class Incoming {
 public:
  Incoming(Tree& tree, Stream& stream, const FilesOptions& options, const std::stop_token& stop)
      : tree_(tree), stream_(stream), options_(options), stop_(stop) {}
  ~Incoming();

  Result<> run();
  Result<> checkpoint();

 private:
  Result<> handle(Arrived arrived);
  Result<> take_batch(const Batch& batch, Arrived& piece);
  Result<> apply_piece(const Batch& batch, Arrived& piece, std::size_t& next);
  void apply_all(Intake& intake, std::stop_source& reading);
  Result<> take_change(const Change& change, std::vector<Rejected>& rejected);
  Result<> take_part(const Part& part);
  void drop(std::uint32_t file);
  // Runs `act` until it does not fail for want of room, telling the sender meanwhile. `act` takes the mutex itself.
  template <class Act>
  Result<> patiently(Act act);
  Result<> send(std::string_view frame);
  Result<> send_ack(std::uint64_t applied, const std::vector<Rejected>& rejected);

  void checkpoints(const std::stop_token& stop);

  Tree& tree_;
  Stream& stream_;
  const FilesOptions options_;
  const std::stop_token stop_;
  std::map<std::uint32_t, Staged> staged_;
  std::vector<Rejected> rejected_;  // of the batch whose pieces come now
  std::optional<Error> broken_;     // why nothing is applied any more

  std::mutex write_mutex_;  // frames to the sender, whole

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::uint64_t applied_ = 0;
  std::uint64_t durable_ = 0;
  std::uint64_t bytes_ = 0;  // since the last checkpoint
  bool hurry_ = false;
  std::optional<Error> sick_;  // the checkpoint failed
};

Incoming::~Incoming() {
  const std::lock_guard lock(tree_.mutex);
  while (!staged_.empty()) drop(staged_.begin()->first);
}

Result<> Incoming::send(std::string_view frame) {
  const std::lock_guard lock(write_mutex_);
  return write_frame(stream_, frame, Deadline::in(kWrite), stop_);
}

Result<> Incoming::send_ack(std::uint64_t applied, const std::vector<Rejected>& rejected) {
  Ack ack;
  {
    const std::lock_guard lock(mutex_);
    ack.applied = std::max(applied, applied_);
    ack.durable = durable_;
  }
  for (const auto& r : rejected) ack.failures.push_back({r.path, r.need_content, r.text});
  return send(encode(ack));
}

template <class Act>
Result<> Incoming::patiently(Act act) {
  bool waited = false;
  while (true) {
    auto done = act();
    if (done || done.error().kind != ErrorKind::retry) {
      if (waited) CHECK_OK(send(encode(Status{""})));
      return done;
    }
    waited = true;
    CHECK_OK(send(encode(Status{done.error().what})));
    if (!pause_for(Millis(300), stop_)) return failure(ErrorKind::cancelled, "stopped while the disk was full");
  }
}

Result<> Incoming::take_change(const Change& change, std::vector<Rejected>& rejected) {
  Staged* staged = nullptr;
  if (change.op == Op::parts) {
    // A file of holes alone, or of nothing, has no part.
    if (!staged_.contains(change.file)) CHECK_OK(take_part(Part{change.file, 0, {}}));
    staged = &staged_.at(change.file);
  }
  bool need_content = false;
  Applier applier(tree_);
  auto done = applier.apply(change, staged, need_content);
  if (!done && done.error().kind == ErrorKind::retry) return done;
  if (staged) drop(change.file);
  if (!done) rejected.push_back({std::string(change.path), need_content, done.error().what});
  return {};
}

// From `next` on, under one hold of the mutex, so that nobody looks at directories whose times are not yet put right; only
// a full disk makes it let go half-way.
Result<> Incoming::apply_piece(const Batch& batch, Arrived& piece, std::size_t& next) {
  const std::lock_guard lock(tree_.mutex);
  Applier applier(tree_);
  for (; next < piece.to; ++next) {
    const auto& change = batch.changes[next];
    if (change.op == Op::parts) {
      applier.restore_times();
      CHECK_OK(take_change(change, rejected_));
      continue;
    }
    const auto at = next - piece.from;
    bool need_content = false;
    auto done = applier.apply(change, nullptr, need_content,
                              at < piece.nameless.size() ? std::move(piece.nameless[at]) : Fd());
    if (!done && done.error().kind == ErrorKind::retry) return done;
    if (!done) rejected_.push_back({std::string(change.path), need_content, done.error().what});
  }
  return {};
}

Result<> Incoming::take_batch(const Batch& batch, Arrived& piece) {
  std::size_t next = piece.from;
  CHECK_OK(patiently([&] { return apply_piece(batch, piece, next); }));
  {
    const std::lock_guard lock(mutex_);
    if (sick_) return std::unexpected(*sick_);
    for (std::size_t i = piece.from; i < piece.to; ++i) bytes_ += batch.changes[i].content.size() + 256;
    if (!piece.last) return {};
  }
  // What did not go in is told first: from `applied_` on a checkpoint may call the batch durable.
  CHECK_OK(send_ack(batch.sequence, std::exchange(rejected_, {})));
  const std::lock_guard lock(mutex_);
  applied_ = batch.sequence;
  changed_.notify_all();
  return {};
}

Result<> Incoming::take_part(const Part& part) {
  if (!staged_.contains(part.file) && staged_.size() >= kMaxStaged)
    return corrupt("the sender sends too many files at a time");
  return stage_part(tree_, staged_[part.file], part);
}

void Incoming::drop(std::uint32_t file) {
  const auto it = staged_.find(file);
  if (it == staged_.end()) return;
  if (const auto hidden = tree_.root->hidden()) ::unlinkat(*hidden, it->second.name.c_str(), 0);
  staged_.erase(it);
}

Result<> Incoming::handle(Arrived arrived) {
  const auto& frame = arrived.received->frame;
  if (const auto* batch = std::get_if<Batch>(&frame)) {
    if (batch->sequence <= applied_) return corrupt("the sender's sequence went backwards");
    return take_batch(*batch, arrived);
  }
  if (const auto* part = std::get_if<Part>(&frame)) {
    CHECK_OK(patiently([&] { return take_part(*part); }));
    const std::lock_guard lock(mutex_);
    bytes_ += part->bytes.size();
    if (bytes_ > kCheckpointBytes && applied_ > durable_) changed_.notify_all();
    return {};
  }
  if (const auto* cancel = std::get_if<Cancel>(&frame)) {
    const std::lock_guard lock(tree_.mutex);
    drop(cancel->file);
    return {};
  }
  if (const auto* ping = std::get_if<Ping>(&frame)) {
    if (ping->checkpoint) {
      const std::lock_guard lock(mutex_);
      hurry_ = true;
      changed_.notify_all();
    }
    return send_ack(0, {});
  }
  return corrupt("the sender sent a frame that only a receiver sends");
}

// Makes everything applied so far durable, then the index that speaks of it, and only then says so.
Result<> Incoming::checkpoint() {
  std::uint64_t upto = 0;
  CHECK_OK(files::checkpoint(tree_, [&] {
    const std::lock_guard lock(mutex_);
    upto = applied_;
    bytes_ = 0;
    hurry_ = false;
  }));
  const std::lock_guard lock(mutex_);
  durable_ = upto;
  return {};
}

void Incoming::checkpoints(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, stop, [&] { return applied_ > durable_; });
      if (stop.stop_requested()) return;
      changed_.wait_for(lock, stop, options_.checkpoint, [&] { return hurry_ || bytes_ > kCheckpointBytes; });
      if (stop.stop_requested()) return;
    }
    auto done = checkpoint();
    if (done) done = send_ack(0, {});
    if (!done) {
      const std::lock_guard lock(mutex_);
      sick_ = done.error();
      stream_.shut();
      return;
    }
  }
}

void Incoming::apply_all(Intake& intake, std::stop_source& reading) {
  while (auto arrived = intake.next(stop_)) {
    auto done = handle(std::move(*arrived));
    if (done) continue;
    broken_ = done.error();
    intake.close();
    reading.request_stop();  // the stream stays open: the sender is told why
    return;
  }
}

Result<> Incoming::run() {
  std::uint64_t incarnation = 0;
  Fd hidden;
  {
    const std::lock_guard lock(tree_.mutex);
    // Where nothing leaves this host, the index speaks of nothing that was not on disk before.
    if (tree_.distrusted && !tree_.outgoing) trust(tree_);
    incarnation = std::strtoull(tree_.index->fact("incarnation").c_str(), nullptr, 10);
    hidden = Fd(::fcntl(TRY(tree_.root->hidden()), F_DUPFD_CLOEXEC, 0));
  }
  CHECK_OK(send(encode(Welcome{kProtocol, incarnation})));
  const std::jthread syncer([this](const std::stop_token& stop) { checkpoints(stop); });
  Intake intake(stream_, std::move(hidden));
  std::stop_source reading;
  const std::stop_callback forward(stop_, [&] { reading.request_stop(); });
  Error ended;
  std::jthread reader([&] { ended = intake.read(reading.get_token()); });
  apply_all(intake, reading);
  reader.join();
  const std::lock_guard lock(mutex_);
  if (sick_) return std::unexpected(*sick_);
  if (broken_) return std::unexpected(*broken_);
  if (ended.kind == ErrorKind::cancelled && !stop_.stop_requested()) return {};  // closed in order
  return std::unexpected(ended);
}

}  // namespace

Result<> serve_incoming(Tree& tree, Stream& stream, const FilesOptions& options, const std::stop_token& stop) {
  Incoming incoming(tree, stream, options, stop);
  auto ended = incoming.run();
  // What was applied since the last checkpoint: the sender is gone, but the next one need not send it again.
  const bool unsynced = [&] {
    const std::lock_guard lock(tree.mutex);
    return tree.received_unsynced;
  }();
  if (unsynced) {
    auto synced = incoming.checkpoint();
    if (!synced && ended) return synced;
  }
  return ended;
}

}  // namespace midstream::files
