#include "movers/files/files.h"

#include <fmt/format.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>

#include "base/text.h"
#include "movers/files/check.h"
#include "movers/files/incoming.h"
#include "movers/files/mend.h"
#include "movers/files/outgoing.h"
#include "movers/files/path.h"
#include "movers/files/verify.h"
#include "sys/file.h"

namespace midstream {

using namespace files;

namespace {

constexpr int kRounds = 40;  // looks at what differs
constexpr Millis kBetween{250};
constexpr Millis kWayBackLag{10'000};  // further behind, old does not count as in sync

// A stream that is being served, so that a newer one or an undo can end it.
struct Served {
  Stream* stream = nullptr;
  std::stop_source stop;
};

class FilesMover final : public Mover {
 public:
  explicit FilesMover(const FilesOptions& options) : options_(options) {}
  ~FilesMover() override;

  std::string_view name() const override { return "files"; }
  Result<> start(const Context& base) override;
  Result<Json> observe(const Context& context, const Json& desired) override;
  Result<Json> apply(const Context& context, const Json& desired) override;
  Result<Json> undo(const Context& context, const Json& desired) override;
  Result<Json> observe_undo(const Context& context, const Json& desired) override;
  Result<Json> check(const Context& context, const Json& desired) override;
  std::string describe(const Json& desired) const override;
  Result<Json> peer(const Context& context, std::string_view verb, const Json& args) override;
  Result<> serve(const Context& context, Stream& stream, const Json& hello) override;

 private:
  std::filesystem::path state_of(const Context& context, const std::string& id) const {
    return context.state / "trees" / id;
  }
  Result<std::shared_ptr<Tree>> tree(const Context& context, const std::string& id, const std::string& path);
  Result<> resume(const Context& base, const std::filesystem::path& folder);
  Result<> begin(const Context& context, const FollowSpec& spec, const Json& record, bool copied);
  Result<Json> follow(const Context& context, const Json& desired);
  Result<Json> barrier(const Context& context, const Json& desired);
  Result<Json> verify(const Context& context, const Json& desired);
  Result<Json> unfollow(const Context& context, const FollowSpec& spec);
  enum class Ending { at_once, complete, complete_and_closed };
  Result<> stop_follow(const Context& context, const std::string& id, Ending ending);
  Result<Json> end(const Context& context, const FollowSpec& spec);
  Result<Json> clean_up(const Context& context, const FollowSpec& spec);
  Result<> forget(const Context& context, const std::string& id);
  Result<std::vector<std::string>> still_different(const Context& context, const FollowSpec& spec, const Root& root,
                                                   std::vector<std::string> candidates);

  Result<Json> peer_remove(const Context& context, const Json& args);
  Result<Json> peer_versions(const Context& context, const Json& args);
  Result<> serve_follow(const Context& context, Stream& stream, const Json& hello);
  Result<> serve_listing(const Context& context, Stream& stream, const Json& hello);
  Result<> serve_mending(const Context& context, Stream& stream, const Json& hello);
  void end_served(const std::string& id);

  const FilesOptions options_;
  std::mutex record_mutex_;  // follow.json files
  std::mutex mutex_;
  std::condition_variable served_changed_;
  Peers* peers_ = nullptr;  // the agent's, from start()
  std::map<std::string, std::shared_ptr<Tree>> trees_;
  std::map<std::string, std::shared_ptr<Outgoing>> follows_;
  std::map<std::string, std::shared_ptr<Served>> served_;
  std::optional<std::stop_callback<std::function<void()>>> on_stop_;
};

FilesMover::~FilesMover() {
  on_stop_.reset();
  std::map<std::string, std::shared_ptr<Outgoing>> follows;
  {
    const std::lock_guard lock(mutex_);
    follows.swap(follows_);
  }
}

Result<> FilesMover::start(const Context& base) {
  {
    const std::lock_guard lock(mutex_);
    peers_ = &base.peers;
  }
  on_stop_.emplace(base.stop, [this] {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, follow] : follows_) follow->request_stop();
    for (const auto& [id, served] : served_) served->stop.request_stop();
  });
  const auto folder = base.state / "trees";
  std::error_code failed;
  if (!std::filesystem::exists(folder, failed)) return {};
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) CHECK_OK(resume(base, entry.path()));
  return failed ? Result<>(refused(fmt::format("cannot read {}: {}", folder.string(), failed.message()))) : Result<>();
}

Result<> FilesMover::resume(const Context& base, const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::exists(folder / "follow.json", ignored)) return {};
  const auto record = TRY(parse_json(TRY(read_file(folder / "follow.json"))));
  const auto spec = TRY(follow_spec(TRY(get_object(record, "desired"))));
  return begin(base, spec, record, get_bool_or(record, "copied", false));
}

// The tree of `id`: the same object for what leaves and what arrives.
Result<std::shared_ptr<Tree>> FilesMover::tree(const Context& context, const std::string& id, const std::string& path) {
  if (!is_plain_name(id)) return refused(fmt::format("'{}' is no plain name for a tree", printable(id)));
  const auto run = options_.run.empty() ? TRY(host_run()) : HostRun{options_.run, options_.run_since_ns};
  const std::lock_guard lock(mutex_);
  for (const auto& [other, known] : trees_) {
    const auto theirs = known->path.string();
    if (other == id && theirs != path)
      return refused(fmt::format("the tree {} is {}, not {}", id, theirs, printable(path)));
    if (other != id && (theirs == path || theirs.starts_with(path + "/") || path.starts_with(theirs + "/"))) {
      return refused(fmt::format("{} and {} overlap: {} and {}", other, id, theirs, printable(path)),
                     "name one of them, or except it");
    }
  }
  auto& slot = trees_[id];
  if (!slot) {
    slot = std::make_shared<Tree>();
    slot->id = id;
    slot->path = path;
    slot->state = state_of(context, id);
    slot->run = run;
  }
  return slot;
}

Json task_json(const Task& task) { return {{"move", task.move}, {"step", task.step}, {"epoch", task.epoch}}; }

Task task_from(const Json& value) {
  Task task;
  task.move = get_string_or(value, "move", "");
  task.step = get_string_or(value, "step", "");
  task.epoch = static_cast<std::uint64_t>(get_int_or(value, "epoch", 0));
  return task;
}

Result<Json> read_record(const std::filesystem::path& file) { return parse_json(TRY(read_file(file))); }

Result<> FilesMover::begin(const Context& context, const FollowSpec& spec, const Json& record, bool copied) {
  const auto of = TRY(tree(context, spec.id, spec.path));
  const auto file = of->state / "follow.json";
  // Failing to note it means that a restart says "copying" for a moment, nothing else.
  const auto note = [this, file] {
    const std::lock_guard lock(record_mutex_);
    if (auto now = read_record(file)) {
      (*now)["copied"] = true;
      if (auto written = write_file_durably(file, now->dump()); !written) return;
    }
  };
  const std::lock_guard lock(mutex_);
  Peers& peers = peers_ ? *peers_ : context.peers;
  follows_[spec.id] = std::make_shared<Outgoing>(of, spec, task_from(record.value("task", Json::object())),
                                                 context.host, peers, options_, copied, note);
  return {};
}

Result<Json> FilesMover::follow(const Context& context, const Json& desired) {
  const auto spec = TRY(follow_spec(desired));
  if (spec.to == context.host)
    return refused(fmt::format("{} cannot be followed from {} to itself", spec.path, spec.to));
  std::shared_ptr<Outgoing> running;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = follows_.find(spec.id); it != follows_.end()) running = it->second;
  }
  if (running) {
    const auto& now = running->spec();
    if (now.path != spec.path || now.to != spec.to || now.except != spec.except) {
      return refused(fmt::format("the tree {} is followed with other settings", spec.id), "undo that follow first");
    }
    // A later epoch goes on with it: the other host answers to that one only.
    const std::lock_guard lock(record_mutex_);
    const auto file = state_of(context, spec.id) / "follow.json";
    auto record = TRY(read_record(file));
    if (record["task"] != task_json(context.task)) {
      record["task"] = task_json(context.task);
      CHECK_OK(write_file_durably(file, record.dump()));
    }
    running->set_task(context.task);
    return Json::object();
  }
  const Json record = {{"desired", desired}, {"task", task_json(context.task)}, {"copied", false}};
  const auto of = TRY(tree(context, spec.id, spec.path));
  CHECK_OK(make_directories(of->state));
  CHECK_OK(write_file_durably(of->state / "follow.json", record.dump()));
  CHECK_OK(begin(context, spec, record, false));
  return Json::object();
}

Result<Json> FilesMover::barrier(const Context& context, const Json& desired) {
  const auto id = TRY(get_string(desired, "id"));
  std::shared_ptr<Outgoing> running;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = follows_.find(id); it != follows_.end()) running = it->second;
  }
  if (!running) return refused(fmt::format("the tree {} is not followed from {}", printable(id), context.host));
  return running->barrier(context.deadline, context.stop);
}

// Looks at what differed again, on both sides, until it is equal or stays different.
Result<std::vector<std::string>> FilesMover::still_different(const Context& context, const FollowSpec& spec,
                                                             const Root& root, std::vector<std::string> candidates) {
  std::map<std::string, std::pair<std::string, std::string>> last;
  for (int round = 0; round < kRounds && !candidates.empty(); ++round) {
    if (round > 0 && !pause_for(kBetween, context.stop))
      return failure(ErrorKind::cancelled, "stopped while comparing trees");
    bool moved = false;
    std::vector<std::string> next;
    for (std::size_t from = 0; from < candidates.size(); from += 500) {
      const std::vector<std::string> part(
          candidates.begin() + static_cast<std::ptrdiff_t>(from),
          candidates.begin() + static_cast<std::ptrdiff_t>(std::min(from + 500, candidates.size())));
      Json paths = Json::array();
      for (const auto& path : part) paths.push_back(to_hex(path));
      const auto answer =
          TRY(context.peers.call(spec.to, "files", "versions", {{"id", spec.id}, {"path", spec.path}, {"paths", paths}},
                                 context.task, context.deadline, context.stop));
      const auto theirs = TRY(get_strings(answer, "versions"));
      if (theirs.size() != part.size()) return corrupt("the other host answered for other paths");
      for (std::size_t i = 0; i < part.size(); ++i) {
        const auto ours = std::to_string(digest(TRY(version_at(root, part[i], context.stop))));
        if (ours == theirs[i]) continue;
        const auto now = std::pair(ours, theirs[i]);
        moved |= round == 0 || last[part[i]] != now;
        last[part[i]] = now;
        next.push_back(part[i]);
      }
    }
    candidates = std::move(next);
    if (!moved && round * kBetween >= options_.still) break;  // nothing moves any more
  }
  return candidates;
}

Result<Json> FilesMover::verify(const Context& context, const Json& desired) {
  const auto spec = TRY(follow_spec(desired));
  const auto began = boot_now();
  const auto root = TRY(Root::open(spec.path));
  const Json hello = {{"for", "listing"}, {"id", spec.id}, {"path", spec.path}, {"except", spec.except}};
  const auto stream = TRY(context.peers.open(spec.to, "files", hello, context.task, context.deadline, context.stop));
  const auto compared = compare_listing(root, Except(spec.except), *stream, context.deadline, context.stop);
  stream->shut();
  if (!compared) return with_context(compared.error(), fmt::format("comparing {} with {}", spec.path, spec.to));
  const auto different = TRY(still_different(context, spec, root, compared->different));
  if (!different.empty()) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < std::min<std::size_t>(different.size(), 10); ++i)
      names.push_back(printable(different[i]));
    return refused(
        fmt::format("{} entries of {} differ on {}: {}", different.size(), spec.path, spec.to, join(names, ", ")),
        "wait until the follow has caught up; what differs then was changed there");
  }
  const auto took = std::chrono::duration_cast<Millis>(boot_now() - began);
  return Json{{"entries", compared->entries}, {"ms", took.count()}, {"compared_again", compared->different.size()}};
}

Result<Json> FilesMover::apply(const Context& context, const Json& desired) {
  const auto kind = TRY(get_string(desired, "kind"));
  if (kind == "follow") return follow(context, desired);
  if (kind == "barrier") return barrier(context, desired);
  if (kind == "verify") return verify(context, desired);
  if (kind == "end") return end(context, TRY(follow_spec(desired)));
  if (kind == "forget") return clean_up(context, TRY(follow_spec(desired)));
  return refused(fmt::format("files knows no '{}'", printable(kind)));
}

Result<Json> FilesMover::observe(const Context& context, const Json& desired) {
  const auto kind = TRY(get_string(desired, "kind"));
  if (kind == "barrier") return observation(false, "a barrier is an act");
  if (kind == "end" || kind == "forget") {
    const auto left = state_of(context, TRY(get_string(desired, "id"))) / (kind == "end" ? "follow.json" : "");
    std::error_code ignored;
    const bool gone = !std::filesystem::exists(left, ignored);
    return observation(gone, gone ? "" : "the tree is still followed or remembered");
  }
  if (kind == "verify") {
    auto verdict = verify(context, desired);
    if (!verdict && verdict.error().kind != ErrorKind::refused) return verdict;
    auto out = observation(verdict.has_value(), verdict ? "" : verdict.error().what);
    if (verdict) out.update(*verdict);
    return out;
  }
  if (kind != "follow") return refused(fmt::format("files knows no '{}'", printable(kind)));
  const auto spec = TRY(follow_spec(desired));
  std::shared_ptr<Outgoing> running;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = follows_.find(spec.id); it != follows_.end()) running = it->second;
  }
  if (!running) {
    auto out = observation(false, fmt::format("{} is not followed", spec.path));
    out["phase"] = "stalled";
    return out;
  }
  return running->observe(get_string_or(desired, "until", "caught-up"));
}

// Ends every stream that is served for the tree, and waits until it has ended.
void FilesMover::end_served(const std::string& id) {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto it = served_.find(id);
    if (it == served_.end()) return;
    it->second->stop.request_stop();
    if (it->second->stream) it->second->stream->shut();
    served_changed_.wait_for(lock, Millis(100));
  }
}

// Removes what this host remembers of the tree. What lost conflicts is kept.
Result<> FilesMover::forget(const Context& context, const std::string& id) {
  {
    const std::lock_guard lock(mutex_);
    trees_.erase(id);
  }
  const auto state = state_of(context, id);
  std::error_code failed;
  if (std::filesystem::exists(state / "conflicts", failed)) {
    CHECK_OK(make_directories(context.state / "kept"));
    std::filesystem::rename(state / "conflicts", context.state / "kept" / fmt::format("{}-{}", id, wall_now_ms()),
                            failed);
    if (failed) return refused(fmt::format("cannot keep what lost conflicts in {}: {}", id, failed.message()));
  }
  std::filesystem::remove_all(state, failed);
  return failed ? Result<>(refused(fmt::format("cannot remove {}: {}", state.string(), failed.message()))) : Result<>();
}

// Ends the follow from this host. `complete`: first everything that is pending here arrives on the other side, and with
// `closed` nobody here is writing a file of the tree any more; where that cannot be had the follow goes on and the
// error says why.
Result<> FilesMover::stop_follow(const Context& context, const std::string& id, Ending ending) {
  std::shared_ptr<Outgoing> running;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = follows_.find(id); it != follows_.end()) running = it->second;
  }
  if (running && ending != Ending::at_once) {
    auto drained = running->barrier(context.deadline, context.stop);
    if (!drained)
      return with_context(std::move(drained).error(),
                          fmt::format("the tree {} is not complete on the other side yet", id));
    const auto writers = drained->value("writers", Json::array());
    if (ending == Ending::complete_and_closed && !writers.empty()) {
      const auto& first = writers[0];
      return retry(
          fmt::format("{} files of the tree {} are still being written on {}, one by {} (pid {})", writers.size(), id,
                      context.host, get_string_or(first, "command", "?"), get_int_or(first, "pid", 0)),
          "wait for the writer, or end it");
    }
  }
  {
    const std::lock_guard lock(mutex_);
    follows_.erase(id);
  }
  if (running) running->request_stop();
  running.reset();
  return remove_file_durably(state_of(context, id) / "follow.json");
}

Result<Json> FilesMover::unfollow(const Context& context, const FollowSpec& spec) {
  // What users wrote here while both sides served must be there before nobody carries it over any more.
  CHECK_OK(stop_follow(context, spec.id, spec.first ? Ending::at_once : Ending::complete_and_closed));
  if (!spec.first) return Json::object();
  auto removed = TRY(context.peers.call(spec.to, "files", "remove", {{"id", spec.id}, {"path", spec.path}},
                                        context.task, context.deadline, context.stop));
  end_served(spec.id);
  if (auto root = Root::open(spec.path)) CHECK_OK(root->remove_hidden());
  CHECK_OK(forget(context, spec.id));
  return removed;
}

Result<Json> FilesMover::end(const Context& context, const FollowSpec& spec) {
  CHECK_OK(stop_follow(context, spec.id, Ending::complete));
  const auto of = TRY(tree(context, spec.id, spec.path));
  const std::lock_guard lock(of->mutex);
  return conflicts_json(*of);
}

// After both sides have ended: nothing of ours stays in the tree or beside it.
Result<Json> FilesMover::clean_up(const Context& context, const FollowSpec& spec) {
  end_served(spec.id);
  if (auto root = Root::open(spec.path)) CHECK_OK(root->remove_hidden());
  CHECK_OK(forget(context, spec.id));
  return Json::object();
}

Result<Json> FilesMover::undo(const Context& context, const Json& desired) {
  const auto kind = TRY(get_string(desired, "kind"));
  if (kind == "barrier" || kind == "verify") return Json::object();
  if (kind == "end" || kind == "forget") return refused("the end of following is irreversible");
  if (kind != "follow") return refused(fmt::format("files knows no '{}'", printable(kind)));
  return unfollow(context, TRY(follow_spec(desired)));
}

// What users wrote on new must be on its way to old, and not far behind.
Result<Json> FilesMover::observe_undo(const Context&, const Json& desired) {
  const auto kind = get_string_or(desired, "kind", "");
  if (kind == "end" || kind == "forget") return undo_outlook("the end of following is irreversible");
  if (kind != "follow") return undo_outlook("");
  const auto spec = TRY(follow_spec(desired));
  if (spec.first) return undo_outlook("");
  std::shared_ptr<Outgoing> running;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = follows_.find(spec.id); it != follows_.end()) running = it->second;
  }
  if (!running) return undo_outlook(fmt::format("{} is not followed back to {}", spec.path, spec.to));
  const auto seen = running->observe("caught-up");
  const auto oldest = get_int_or(seen, "oldest_ms", 0);
  std::string why;
  if (get_string_or(seen, "phase", "") == "stalled") {
    why = fmt::format("{} does not follow back to {}: {}", spec.path, spec.to, get_string_or(seen, "why", ""));
  } else if (oldest > kWayBackLag.count()) {
    why = fmt::format("{} is {} ms behind on {}", spec.path, oldest, spec.to);
  }
  auto out = undo_outlook(std::move(why));
  out["lag_ms"] = oldest;
  out["pending_entries"] = seen["pending_entries"];
  return out;
}

Result<Json> FilesMover::check(const Context& context, const Json& desired) {
  const auto kind = TRY(get_string(desired, "kind"));
  if (kind != "follow") return Json::array();
  const auto spec = TRY(follow_spec(desired));
  if (spec.to == context.host) {
    const auto room = TRY(room_for(spec.path));
    return Json::array({finding(
        fmt::format("room at {} on {}", spec.path, context.host), true,
        fmt::format("{} MiB and {} inodes free", room["bytes"].get<std::uint64_t>() >> 20, room["inodes"].dump()))});
  }
  Json measured;
  auto out = TRY(check_source(spec, context.deadline, context.stop, measured));
  if (measured.is_null()) return out;
  auto room =
      context.peers.call(spec.to, "files", "room", {{"path", spec.path}}, context.task, context.deadline, context.stop);
  const auto what = fmt::format("{} has room for {}", spec.to, spec.path);
  if (!room) {
    out.push_back(finding(what, false, room.error().text(), "start the agent there"));
    return out;
  }
  const auto bytes = get_int_or(measured, "bytes", 0), entries = get_int_or(measured, "entries", 0);
  const auto free = get_int_or(*room, "bytes", 0), inodes = get_int_or(*room, "inodes", 0);
  const bool fits = free > bytes + bytes / 20 && inodes > entries;
  out.push_back(
      finding(what, fits,
              fmt::format("needs {} MiB and {} inodes, has {} MiB and {}", bytes >> 20, entries, free >> 20, inodes),
              fits ? "" : "make room there"));
  return out;
}

std::string FilesMover::describe(const Json& desired) const {
  const auto kind = get_string_or(desired, "kind", "");
  const auto path = get_string_or(desired, "path", "?"), to = get_string_or(desired, "to", "?");
  if (kind == "follow") return fmt::format("copies {} to {} and carries every change over", path, to);
  if (kind == "barrier") return fmt::format("makes {} complete on {}", path, to);
  if (kind == "verify") return fmt::format("compares {} with {}", path, to);
  if (kind == "end") return fmt::format("makes {} complete on {} and follows it no more", path, to);
  if (kind == "forget") return fmt::format("forgets what was noted of {}", path);
  return fmt::format("files: {}", kind);
}

Result<Json> FilesMover::peer_remove(const Context& context, const Json& args) {
  const auto id = TRY(get_string(args, "id"));
  const auto path = TRY(get_string(args, "path"));
  {
    const std::lock_guard lock(mutex_);
    if (follows_.contains(id))
      return refused(fmt::format("{} is followed from {} as well", path, context.host), "undo that follow first");
  }
  end_served(id);
  const auto of = TRY(tree(context, id, path));
  auto removed = TRY(remove_copied(*of));
  CHECK_OK(forget(context, id));
  return removed;
}

Result<Json> FilesMover::peer_versions(const Context& context, const Json& args) {
  const auto id = TRY(get_string(args, "id"));
  const auto of = TRY(tree(context, id, TRY(get_string(args, "path"))));
  std::error_code ignored;
  if (!std::filesystem::exists(of->state, ignored)) return refused(fmt::format("the tree {} is not known here", id));
  const auto root = TRY(Root::open(of->path));
  Json versions = Json::array();
  for (const auto& hex : TRY(get_strings(args, "paths"))) {
    const auto path = from_hex(hex).value_or("");
    if (path != "." && !is_safe_path(path)) return corrupt("an unsafe path was asked for");
    versions.push_back(std::to_string(digest(TRY(version_at(root, path, context.stop)))));
  }
  return Json{{"versions", std::move(versions)}};
}

Result<Json> FilesMover::peer(const Context& context, std::string_view verb, const Json& args) {
  if (verb == "remove") return peer_remove(context, args);
  if (verb == "versions") return peer_versions(context, args);
  if (verb == "room") return room_for(TRY(get_string(args, "path")));
  return Mover::peer(context, verb, args);
}

Result<> FilesMover::serve_follow(const Context& context, Stream& stream, const Json& hello) {
  const auto id = TRY(get_string(hello, "id"));
  const auto path = TRY(get_string(hello, "path"));
  const bool first = get_bool_or(hello, "first", false);
  if (get_int_or(hello, "protocol", 0) != kProtocol)
    return refused("the sender speaks another protocol", "use the same version on both hosts");
  const auto of = TRY(tree(context, id, path));
  if (first) CHECK_OK(note_origin(*of));
  end_served(id);  // of a sender that went away without our noticing
  const auto served = std::make_shared<Served>();
  served->stream = &stream;
  {
    const std::lock_guard lock(mutex_);
    if (served_.contains(id)) return retry(fmt::format("{} is being received already", id));
    served_[id] = served;
  }
  const std::stop_callback forward(context.stop, [&] { served->stop.request_stop(); });
  auto ended = open_tree(*of, first);
  if (ended) ended = serve_incoming(*of, stream, options_, served->stop.get_token());
  const std::lock_guard lock(mutex_);
  served_.erase(id);
  served_changed_.notify_all();
  return ended;
}

Result<> FilesMover::serve_listing(const Context& context, Stream& stream, const Json& hello) {
  const auto of = TRY(tree(context, TRY(get_string(hello, "id")), TRY(get_string(hello, "path"))));
  std::error_code ignored;
  if (!std::filesystem::exists(of->state, ignored))
    return refused(fmt::format("the tree {} is not known here", of->id));
  const auto root = TRY(Root::open(of->path));
  return send_listing(root, Except(TRY(get_strings(hello, "except"))), stream, context.stop);
}

// For a host that comes back from a power cut. What its last stream still brings is taken first.
Result<> FilesMover::serve_mending(const Context& context, Stream& stream, const Json& hello) {
  if (get_int_or(hello, "protocol", 0) != kProtocol)
    return refused("the other host speaks another protocol", "use the same version on both hosts");
  const auto of = TRY(tree(context, TRY(get_string(hello, "id")), TRY(get_string(hello, "path"))));
  std::error_code ignored;
  if (!std::filesystem::exists(of->state / "index", ignored))
    return refused(fmt::format("the tree {} is not known here", of->id));
  CHECK_OK(open_tree(*of, false));
  if (get_string_or(hello, "for", "") == "known") {
    end_served(of->id);
    return send_known(*of, stream, context.stop);
  }
  const auto path = from_hex(TRY(get_string(hello, "entry"))).value_or("");
  if (path != "." && !is_safe_path(path)) return corrupt("an unsafe path was asked for");
  return send_entry(TRY(Root::open(of->path)), path, stream, context.stop);
}

Result<> FilesMover::serve(const Context& context, Stream& stream, const Json& hello) {
  const auto purpose = TRY(get_string(hello, "for"));
  if (purpose == "listing") return serve_listing(context, stream, hello);
  const bool mending = purpose == "known" || purpose == "entry";
  if (!mending && purpose != "follow")
    return refused(fmt::format("files takes no stream for '{}'", printable(purpose)));
  auto ended = mending ? serve_mending(context, stream, hello) : serve_follow(context, stream, hello);
  if (!ended) {
    // The sender shows it; if it is gone already, nobody needs it.
    if (auto told = write_frame(stream, encode(Refusal{ended.error()}), Deadline::in(Millis(1000)), context.stop);
        !told)
      return ended;
  }
  return ended;
}

}  // namespace

std::unique_ptr<Mover> make_files_mover(const FilesOptions& options) { return std::make_unique<FilesMover>(options); }

}  // namespace midstream
