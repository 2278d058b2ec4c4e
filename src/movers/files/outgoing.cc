#include "movers/files/outgoing.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/text.h"
#include "movers/files/apply.h"
#include "movers/files/path.h"

namespace midstream::files {

namespace {
constexpr auto kPing = std::chrono::seconds(5);
constexpr auto kSilence = std::chrono::seconds(30);
constexpr auto kConnect = std::chrono::seconds(10);
constexpr Millis kSettleWritten{500};              // written to and not yet closed
constexpr Millis kSettleChildren{20};              // a directory: more children may change
constexpr auto kRescan = std::chrono::seconds(2);  // where nothing watches
constexpr std::size_t kTake = 256;
}  // namespace

Result<FollowSpec> follow_spec(const Json& desired) {
  FollowSpec spec;
  spec.id = TRY(get_string(desired, "id"));
  spec.path = TRY(get_string(desired, "path"));
  spec.to = TRY(get_string(desired, "to"));
  spec.first = get_bool_or(desired, "first", false);
  if (desired.contains("except")) spec.except = TRY(get_strings(desired, "except"));
  if (!is_plain_name(spec.id)) return refused(fmt::format("'{}' is no plain name for a tree", printable(spec.id)));
  const std::filesystem::path path(spec.path);
  if (!path.is_absolute() || path != path.lexically_normal() || path == "/" || spec.path.ends_with('/')) {
    return refused(fmt::format("{} is not an absolute, normal path of a directory", printable(spec.path)));
  }
  return spec;
}

Outgoing::Outgoing(std::shared_ptr<Tree> tree, FollowSpec spec, Task task, std::string host, Peers& peers,
                   const FilesOptions& options, bool copied, std::function<void()> on_copied)
    : tree_(std::move(tree)),
      spec_(std::move(spec)),
      host_(std::move(host)),
      peers_(peers),
      options_(options),
      on_copied_(std::move(on_copied)),
      outbox_(*tree_),
      mender_(
          *tree_, [this](const Json& hello) { return open_stream(hello, stop_.get_token()); }, stop_.get_token()),
      task_(std::move(task)),
      copied_(copied) {
  tree_->outgoing = true;
  outbox_.progressed = [this] { notify(); };
  scout_ = std::make_unique<Scout>(*tree_, outbox_, Except(spec_.except), stop_.get_token());
  syncer_ = std::jthread([this](const std::stop_token& stop) { checkpoints(stop); });
  worker_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

void Outgoing::request_stop() {
  stop_.request_stop();
  worker_.request_stop();
  syncer_.request_stop();
  tree_->dirty.poke();
}

Outgoing::~Outgoing() {
  request_stop();
  if (worker_.joinable()) worker_.join();
  if (syncer_.joinable()) syncer_.join();
  watcher_.reset();
  tree_->outgoing = false;
}

void Outgoing::set_task(const Task& task) {
  const std::lock_guard lock(mutex_);
  task_ = task;
}

void Outgoing::notify() {
  tree_->dirty.poke();
  const std::lock_guard lock(mutex_);
  ++ticks_, changed_.notify_all();
}

void Outgoing::run(const std::stop_token& stop) {
  Millis backoff(100);
  while (!stop.stop_requested()) {
    const auto began = boot_now();
    const auto ended = connect_and_follow(stop);
    if (stop.stop_requested()) break;
    {
      const std::lock_guard lock(mutex_);
      why_ = ended ? "the other host closed the stream" : ended.error().text();
      ++ticks_, changed_.notify_all();
    }
    if (boot_now() - began > std::chrono::seconds(10)) backoff = Millis(100);
    pause_for(backoff, stop);
    backoff = std::min(backoff * 2, options_.backoff_max);
  }
}

Result<> Outgoing::start_watching() {
  WatchSink sink;
  sink.changed = [this](const std::string& path, Hint hint) {
    const auto settle = hint == Hint::written ? kSettleWritten : hint == Hint::children ? kSettleChildren : Millis(0);
    tree_->dirty.mark(path, settle, hint == Hint::directory ? kTree : 0);
  };
  sink.renamed = [this](const std::string& from, const std::string& to) { tree_->renames.note(from, to); };
  sink.cookie = [this](std::string_view name) {
    const std::lock_guard lock(mutex_);
    if (cookies_.size() > 64) cookies_.clear();
    cookies_.emplace(name);
    ++ticks_, changed_.notify_all();
  };
  sink.lost = [this](const std::string&) {
    rescan_ = true;
    tree_->dirty.poke();
  };
  auto watcher = options_.watch
                     ? Watcher::start(*tree_->root, std::move(sink), options_.unlimited_queue, options_.hold_drain)
                     : Result<std::unique_ptr<Watcher>>(refused("turned off"));
  const std::lock_guard lock(mutex_);
  level_ = watcher ? "fanotify" : fmt::format("rescan every {} s: {}", kRescan.count(), watcher.error().what);
  watcher_ = watcher ? std::move(*watcher) : nullptr;
  return {};
}

// The root is held and watched before it is walked over.
Result<> Outgoing::prepare() {
  if (!tree_->root || level_ == "none") {
    CHECK_OK(open_tree(*tree_, false));
    CHECK_OK(start_watching());
    rescan_ = true;
  }
  {
    const std::lock_guard lock(tree_->mutex);
    distrust_ = tree_->distrusted;
  }
  scout_->distrust_disk(distrust_, copied_);
  if (distrust_) rescan_ = true;
  return check_root();
}

// A mount that vanished, or another directory in the root's place, must not be taken for a mass deletion.
Result<> Outgoing::check_root() {
  struct ::stat raw;
  const bool there = ::lstat(spec_.path.c_str(), &raw) == 0;
  const auto held = tree_->root->stat();
  if (there && raw.st_ino == held.ino && raw.st_dev == held.dev) return {};
  watcher_.reset();
  {
    const std::lock_guard lock(mutex_);
    level_ = "none";
  }
  const std::lock_guard lock(tree_->mutex);
  tree_->root.reset();
  return refused(fmt::format("{} is not the directory that was followed before", spec_.path),
                 "a mount may be missing; nothing is deleted on the other host meanwhile");
}

Result<std::unique_ptr<Stream>> Outgoing::open_stream(Json hello, const std::stop_token& stop) {
  Task task;
  {
    const std::lock_guard lock(mutex_);
    task = task_;
  }
  hello.update({{"id", spec_.id}, {"path", spec_.path}, {"from", host_}, {"protocol", kProtocol}});
  return peers_.open(spec_.to, "files", hello, task, Deadline::in(kConnect), stop);
}

Result<std::shared_ptr<Stream>> Outgoing::connect(const std::stop_token& stop) {
  std::shared_ptr<Stream> stream = TRY(open_stream({{"for", "follow"}, {"first", spec_.first}}, stop));
  const auto body = TRY(read_frame(*stream, Deadline::in(kSilence), stop, kMaxFileFrame));
  const auto frame = TRY(decode(body));
  if (const auto* refusal = std::get_if<Refusal>(&frame)) return std::unexpected(refusal->error);
  const auto* welcome = std::get_if<Welcome>(&frame);
  if (!welcome || welcome->protocol != kProtocol) return corrupt("the other host greets in another protocol");
  const std::lock_guard lock(tree_->mutex);
  const auto incarnation = std::to_string(welcome->incarnation);
  const auto before = tree_->index->fact("peer");
  if (before != incarnation) {
    if (!before.empty()) {  // it lost its memory, or is another machine: nothing is agreed any more
      const auto& nodes = tree_->index->nodes();
      for (const auto id : nodes.below(".")) tree_->index->erase(nodes.path(id));
      rescan_ = true;
    }
    tree_->index->set_fact("peer", incarnation);
    CHECK_OK(write_index(*tree_));
  }
  return stream;
}

Result<> Outgoing::connect_and_follow(const std::stop_token& stop) {
  CHECK_OK(prepare());
  if (distrust_) CHECK_OK(mender_.compare());
  const auto stream = TRY(connect(stop));
  {
    const std::lock_guard lock(mutex_);
    why_.clear();
    remote_why_.clear();
    link_error_.reset();
    copied_sequence_ = scanned_serial_ = 0;
    ++session_;
  }
  outbox_.open(stream, stop);
  connected_ = true;
  auto ended = follow(stream, stop);
  connected_ = false;
  scout_->abandon_large();
  outbox_.close();
  tree_->dirty.done();
  return ended;
}

Result<> Outgoing::follow(const std::shared_ptr<Stream>& stream, const std::stop_token& stop) {
  std::jthread reader([this, stream](const std::stop_token& reader_stop) { read_acks(*stream, reader_stop); });
  auto loop = [&]() -> Result<> {
    while (!stop.stop_requested()) {
      {
        const std::lock_guard lock(mutex_);
        if (link_error_) return std::unexpected(*link_error_);
      }
      bool idle = true;
      CHECK_OK(turn(stop, idle));
      if (idle) tree_->dirty.wait(Millis(500), stop);
    }
    return failure(ErrorKind::cancelled, "stopped");
  };
  auto ended = loop();
  stream->shut();
  reader.request_stop();
  reader.join();
  // A write that failed says less than what the other side said last; what we found ourselves says most.
  const std::lock_guard lock(mutex_);
  const bool theirs =
      link_error_ && (link_error_->kind == ErrorKind::refused || link_error_->kind == ErrorKind::corrupt);
  if (theirs && !ended && ended.error().kind != ErrorKind::refused) return std::unexpected(*link_error_);
  return ended;
}

// One round of the worker: live changes first, then a piece of a large file, then a piece of the walk.
Result<> Outgoing::turn(const std::stop_token& stop, bool& idle) {
  const auto now = boot_now().count();
  CHECK_OK(keep_alive());
  if (now - last_root_ns_ > 1'000'000'000) {
    last_root_ns_ = now;
    CHECK_OK(check_root());
  }
  if (outbox_.full()) {
    CHECK_OK(outbox_.flush());
    tree_->dirty.wait(Millis(100), stop);
    idle = false;
    return {};
  }
  const bool due = !watcher_ && now - last_scan_ns_ > std::chrono::nanoseconds(kRescan).count();
  if (!scout_->scanning() && (rescan_.exchange(false) || due)) {
    scanning_ = true;
    scout_->rescan();
  }
  const auto marks = tree_->dirty.take(kTake);
  for (const auto& [path, mark] : marks) {
    if (auto looked = scout_->look(path, mark); !looked) {
      for (const auto& [again, its] : marks) tree_->dirty.put_back(again, its, Millis(0));
      return looked;
    }
  }
  if (scout_->scanning()) {
    if (auto stepped = scout_->scan_step(); !stepped) {
      rescan_ = true;
      scout_->rescan();
      return stepped;
    }
    if (!scout_->scanning()) {
      last_scan_ns_ = boot_now().count();
      CHECK_OK(mend_lost());
    }
  }
  if (scout_->sending_large()) CHECK_OK(scout_->large_step());
  idle = marks.empty() && !scout_->scanning() && !scout_->sending_large();
  if (!marks.empty() || !scout_->scanning()) CHECK_OK(outbox_.flush());
  // What the marks have turned into is told before the marks are: a barrier between the two would pass too early.
  scanning_ = scout_->scanning() || rescan_;
  large_ = scout_->sending_large();
  tree_->dirty.done();
  scans_done_ = scout_->scans_done();
  note_copied();
  if (!marks.empty() || idle) {
    const std::lock_guard lock(mutex_);
    ++ticks_, changed_.notify_all();
  }
  return {};
}

// Makes good what the walk has found, and believes this host's disk from then on.
Result<> Outgoing::mend_lost() {
  if (!distrust_) return {};
  while (!scout_->lost().empty()) {
    CHECK_OK(mender_.mend(scout_->lost().back()));
    scout_->found_again();
  }
  {
    const std::lock_guard lock(tree_->mutex);
    trust(*tree_);
  }
  CHECK_OK(checkpoint(*tree_));
  distrust_ = false;
  scout_->distrust_disk(false, false);
  return {};
}

// What was carried over is made durable here as well, so that after a power cut little is in doubt. The sync is spaced
// by what it costs this host's users: at most a twentieth of the time is spent in it.
void Outgoing::checkpoints(const std::stop_token& stop) {
  auto pause = options_.source_checkpoint;
  while (pause_for(pause, stop)) {
    {
      const std::lock_guard lock(tree_->mutex);
      if (!tree_->root || tree_->distrusted || tree_->index->since_checkpoint() == 0) continue;
    }
    const auto began = boot_now();
    const auto done = checkpoint(*tree_);  // failed: nothing is proven by it, and the next one says so again
    const auto took = std::chrono::duration_cast<Millis>(boot_now() - began);
    pause = std::max(options_.source_checkpoint, took * 20);
    if (!done) scout_->note_trouble(".", done.error().what);
  }
}

// Copied: all that the first walk met is on the other host's disk.
void Outgoing::note_copied() {
  if (copied_ || scanning_ || large_) return;
  const auto figures = outbox_.figures();
  {
    const std::lock_guard lock(mutex_);
    if (scanned_serial_ == 0) scanned_serial_ = tree_->dirty.next_serial();
    if (!tree_->dirty.clean_before(scanned_serial_)) return;
    if (copied_sequence_ == 0) {
      copied_sequence_ = figures.sequence;
      checkpoint_ = true;  // nothing more is to come soon: it is not waited for the receiver's own time
    }
  }
  if (figures.durable < copied_sequence_ || !figures.troubles.empty()) return;
  copied_ = true;
  on_copied_();
}

Result<> Outgoing::keep_alive() {
  const auto now = boot_now().count();
  const bool checkpoint = checkpoint_.exchange(false);
  if (!checkpoint && now - last_ping_ns_ < std::chrono::nanoseconds(kPing).count()) return {};
  last_ping_ns_ = now;
  return outbox_.send(encode(Ping{checkpoint}));
}

void Outgoing::read_acks(Stream& stream, const std::stop_token& stop) {
  auto loop = [&]() -> Error {
    while (true) {
      auto body = read_frame(stream, Deadline::in(kSilence), stop, kMaxFileFrame);
      if (!body) return body.error();
      auto frame = decode(*body);
      if (!frame) return frame.error();
      if (const auto* ack = std::get_if<Ack>(&*frame)) {
        outbox_.acknowledge(*ack);
      } else if (const auto* status = std::get_if<Status>(&*frame)) {
        const std::lock_guard lock(mutex_);
        remote_why_ = printable(status->text);
        ++ticks_, changed_.notify_all();
      } else if (const auto* refusal = std::get_if<Refusal>(&*frame)) {
        return refusal->error;
      } else {
        return Error{ErrorKind::corrupt, "the receiver sent a frame that only a sender sends", ""};
      }
    }
  };
  const auto error = loop();
  {
    const std::lock_guard lock(mutex_);
    link_error_ = error;
  }
  stream.shut();
  notify();
}

Json Outgoing::observe(std::string_view until) {
  const auto figures = outbox_.figures();
  const auto pending = tree_->dirty.size() + figures.pending;
  const auto dirty_ns = tree_->dirty.oldest_ns();
  auto oldest = dirty_ns;
  if (figures.oldest_ns != 0 && (oldest == 0 || figures.oldest_ns < oldest)) oldest = figures.oldest_ns;
  const auto oldest_ms = oldest == 0 ? 0 : (boot_now().count() - oldest) / 1'000'000;
  Json kept;
  std::size_t unproven = 0;
  {
    const std::lock_guard tree_lock(tree_->mutex);
    kept = conflicts_json(*tree_);
    unproven = tree_->index ? tree_->index->since_checkpoint() : 0;
  }
  const std::lock_guard lock(mutex_);
  std::string why = !why_.empty() ? why_ : remote_why_;
  const bool stalled = !why.empty();
  const bool reached = copied_ && (until == "copied" || (!stalled && !scanning_ && !large_ && oldest_ms <= 1000));
  if (!reached && why.empty()) {
    if (!figures.troubles.empty()) {
      why = fmt::format("{}: {}", printable(figures.troubles.begin()->first), figures.troubles.begin()->second);
    } else {
      why = copied_ ? fmt::format("{} entries are pending, the oldest for {} ms", pending, oldest_ms)
                    : "the first copy is under way";
    }
  }
  auto out = observation(reached, reached ? "" : why);
  out["phase"] = stalled ? "stalled" : copied_ ? "following" : "copying";
  if (scout_) {
    const auto total = scout_->seen_files(), bytes = scout_->seen_bytes();
    out["total_files"] = total;
    out["total_bytes"] = bytes;
    out["done_files"] = copied_ ? total : std::min(total, scout_->equal_files() + figures.durable_files);
    out["done_bytes"] = copied_ ? bytes : std::min(bytes, scout_->equal_bytes() + figures.durable_bytes);
    out["sockets"] = scout_->sockets();
    out["unreadable"] = scout_->trouble();
  }
  out["pending_entries"] = pending;
  out["oldest_ms"] = oldest_ms;
  out["level"] = level_;
  out["conflicts"] = tree_->conflicts.load();
  out["kept"] = std::move(kept);
  out["unproven"] = unproven;
  out["sent_changes"] = figures.sent_changes;
  out["sent_bytes"] = figures.sent_bytes;
  out["received_changes"] = tree_->received.load();
  out["restored"] = mender_.restored();
  out["scans"] = scans_done_.load();
  Json troubles = Json::array();
  for (const auto& [path, text] : figures.troubles) {
    if (troubles.size() < 10) troubles.push_back({{"path", printable(path)}, {"why", text}});
  }
  out["troubles"] = std::move(troubles);
  return out;
}

Result<> Outgoing::wait_for(Deadline deadline, const std::stop_token& stop, std::string_view what,
                            const std::function<bool()>& done) {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto seen = ticks_;
    lock.unlock();
    const bool is_done = done();
    lock.lock();
    if (is_done) return {};
    if (stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped within a barrier");
    if (deadline.expired()) {
      const auto& why = why_.empty() ? remote_why_ : why_;
      return retry(
          fmt::format("the barrier on {} waited in vain for {}{}{}", spec_.path, what, why.empty() ? "" : ": ", why));
    }
    changed_.wait_for(lock, stop, std::min(deadline.remaining(), Millis(100)), [&] { return ticks_ != seen; });
  }
}

// Every event before the cookie's has been seen once the cookie's has.
Result<> Outgoing::wait_for_cookie(Deadline deadline, const std::stop_token& stop) {
  CHECK_OK(wait_for(deadline, stop, "the watcher", [this] { return connected_.load(); }));
  bool watched = false;
  {
    const std::lock_guard lock(mutex_);
    watched = level_ == "fanotify";
  }
  if (!watched) {
    const auto before = scans_done_.load();
    CHECK_OK(wait_for(deadline, stop, "the walk under way", [&] { return !scanning_; }));
    rescan_ = true;
    tree_->dirty.poke();
    return wait_for(deadline, stop, "a walk over the tree", [&] { return scans_done_ > before; });
  }
  std::string name;
  int hidden = -1;
  {
    const std::lock_guard lock(tree_->mutex);
    if (!tree_->root) return retry(fmt::format("{} is not there", spec_.path));
    hidden = TRY(tree_->root->hidden());
    name = "c" + tree_->root->temporary_name();
  }
  const Fd cookie(::openat(hidden, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!cookie) return errno_failure("cannot make a cookie", errno);
  auto waited = wait_for(deadline, stop, "the watcher", [&] {
    const std::lock_guard lock(mutex_);
    return cookies_.contains(name);
  });
  ::unlinkat(hidden, name.c_str(), 0);
  return waited;
}

// Waits until nothing that is marked now is pending, and all that was sent is on the other host's disk. A new
// stream begins everything in flight again, so both must happen within one.
Result<> Outgoing::drain(Deadline deadline, const std::stop_token& stop) {
  int patience = 4;
  while (true) {
    const auto session = session_.load();
    const auto refused = outbox_.figures().refused;
    const auto serial = tree_->dirty.next_serial();
    CHECK_OK(wait_for(deadline, stop, "what is pending", [&] {
      return session_ != session ||
             (connected_ && !scanning_ && !large_ && !rescan_ && tree_->dirty.clean_before(serial));
    }));
    const auto sequence = outbox_.figures().sequence;
    if (session_ != session) continue;
    checkpoint_ = true;
    tree_->dirty.poke();
    CHECK_OK(wait_for(deadline, stop, "the other host's disk",
                      [&] { return session_ != session || outbox_.figures().durable >= sequence; }));
    // What did not go in there is marked again before it can count as durable: that is pending as well. What still does not go
    // in after a few times is told by the caller.
    if (outbox_.figures().refused != refused && --patience > 0) continue;
    if (session_ == session && connected_) return {};
  }
}

Result<Json> Outgoing::barrier(Deadline deadline, const std::stop_token& stop) {
  const auto began = boot_now();
  const auto before = outbox_.figures();
  CHECK_OK(wait_for_cookie(deadline, stop));
  if (++urgent_ == 1) tree_->dirty.set_urgent(true);
  auto drained = drain(deadline, stop);
  if (--urgent_ == 0) tree_->dirty.set_urgent(false);
  CHECK_OK(drained);
  const auto after = outbox_.figures();
  if (!after.troubles.empty()) {
    // Each is sent again by itself, and what somebody writes there at this moment they soon have written.
    const auto& [path, why] = *after.troubles.begin();
    return retry(fmt::format("{} entries of {} could not be put on {}, the first: {}: {}", after.troubles.size(),
                             spec_.path, spec_.to, printable(path), why));
  }
  const auto took = std::chrono::duration_cast<Millis>(boot_now() - began);
  return Json{{"ms", took.count()},
              {"drained", after.sent_changes - before.sent_changes + before.pending},
              {"conflicts", tree_->conflicts.load()},
              {"writers", open_writers(spec_.path)}};
}

}  // namespace midstream::files
