#include "movers/files/intake.h"

#include <sched.h>
#include <sys/stat.h>

#include "movers/files/apply.h"

namespace midstream::files {

namespace {

constexpr auto kSilence = std::chrono::seconds(30);  // the sender pings every few seconds
constexpr std::size_t kWaitingBytes = 8u << 20;
constexpr std::size_t kWaitingFiles = 256;  // descriptors
constexpr std::size_t kPiece = 64;          // changes

// The sender never knew of anything at the path: whatever is found there, this content is likely to be needed.
bool is_new_file(const Change& change) {
  return change.op == Op::put && change.version.type == EntryType::file && change.base == 0;
}

}  // namespace

Error Intake::read(const std::stop_token& stop) {
  if (::unshare(CLONE_FS) == 0) {
    ::umask(0);
    bare_ = gives_nothing(hidden_.get());
  }
  while (true) {
    if (auto done = read_one(stop); !done) {
      const std::lock_guard lock(mutex_);
      ended_ = true;
      changed_.notify_all();
      return done.error();
    }
  }
}

Result<> Intake::read_one(const std::stop_token& stop) {
  auto received = std::make_shared<Received>();
  received->body = TRY(read_frame(stream_, Deadline::in(kSilence), stop, kMaxFileFrame));
  received->frame = TRY(decode(received->body));
  if (const auto* batch = std::get_if<Batch>(&received->frame)) return cut(received, *batch, stop);
  const auto bytes = received->body.size();
  return push(Arrived{std::move(received), 0, 0, {}, true}, bytes, stop);
}

Result<> Intake::cut(const std::shared_ptr<const Received>& received, const Batch& batch, const std::stop_token& stop) {
  std::size_t from = 0;
  do {
    Arrived piece{received, from, std::min(from + kPiece, batch.changes.size()), {}, false};
    piece.last = piece.to == batch.changes.size();
    std::size_t bytes = 0;
    for (std::size_t i = from; i < piece.to; ++i) {
      const auto& change = batch.changes[i];
      bytes += change.content.size() + 256;
      if (!is_new_file(change)) continue;
      auto made = make_nameless(hidden_.get(), change, bare_);
      if (!made) break;  // whoever applies it finds out why, and waits if that helps
      piece.nameless.resize(i - from);
      piece.nameless.push_back(std::move(*made));
    }
    from = piece.to;
    CHECK_OK(push(std::move(piece), bytes, stop));
  } while (from < batch.changes.size());
  return {};
}

Result<> Intake::push(Arrived arrived, std::size_t bytes, const std::stop_token& stop) {
  const auto files = arrived.nameless.size();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, stop, [&] {
    return closed_ || waiting_.empty() || (bytes_ < kWaitingBytes && files_ + files <= kWaitingFiles);
  });
  if (closed_ || stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped");
  bytes_ += bytes;
  files_ += files;
  waiting_.emplace_back(std::move(arrived), bytes);
  changed_.notify_all();
  return {};
}

std::optional<Arrived> Intake::next(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, stop, [&] { return closed_ || ended_ || !waiting_.empty(); });
  if (closed_ || stop.stop_requested() || waiting_.empty()) return std::nullopt;
  auto [arrived, bytes] = std::move(waiting_.front());
  waiting_.pop_front();
  bytes_ -= bytes;
  files_ -= arrived.nameless.size();
  changed_.notify_all();
  return std::move(arrived);
}

void Intake::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  waiting_.clear();
  changed_.notify_all();
}

}  // namespace midstream::files
