#include "movers/mail/queue.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>

#include "base/text.h"
#include "movers/mail/queue_files.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/net.h"

namespace midstream::mail {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMessageLimit = 256u << 20;       // a queue file; Postfix's own limit is 10 MB by default
constexpr std::string_view kRelay = "midstream-relay";  // a transport
constexpr Millis kDeliveriesEnd{15'000};
constexpr Millis kDeferLease{120'000};  // over the move of the addresses

std::string hash_of(std::string_view bytes) {
  const auto hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

Result<> sync_path(const fs::path& path, int flags) {
  const Fd fd(::open(path.c_str(), flags | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return errno_failure("cannot sync " + path.string(), errno);
  return {};
}

// Not on disk yet when it returns.
Result<> write_queue_file(const fs::path& path, std::string_view bytes) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return errno_failure("cannot create " + path.string(), errno);
  while (!bytes.empty()) {
    const auto n = ::write(fd.get(), bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR) return errno_failure("cannot write " + path.string(), errno);
    if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

// A name that holds where a file came from: "deferred.3F2A..".
std::string spool_name(const QueueFile& file) { return file.queue + "." + file.id; }

std::optional<QueueFile> from_spool_name(const fs::path& path) {
  const auto name = path.filename().string();
  const auto dot = name.find('.');
  if (dot == std::string::npos || !is_queue_id(std::string_view(name).substr(dot + 1))) return std::nullopt;
  const auto queue = name.substr(0, dot);
  for (const auto* known : {"maildrop", "incoming", "active", "deferred", "hold", "defer", "bounce", "trace"})
    if (queue == known) return QueueFile{queue, name.substr(dot + 1), path};
  return std::nullopt;
}

bool goes_with(const QueueFile& file) { return is_log(file.queue); }

Result<std::vector<QueueFile>> list_spool(const fs::path& spool) {
  std::vector<QueueFile> files;
  std::error_code failed;
  for (fs::directory_iterator at(spool, failed), end; !failed && at != end; at.increment(failed))
    if (auto file = from_spool_name(at->path())) files.push_back(std::move(*file));
  if (failed && failed != std::errc::no_such_file_or_directory)
    return errno_failure("cannot list " + spool.string(), failed.value());
  // Logs ahead of the messages that they belong to, else by name.
  std::ranges::sort(files, [](const QueueFile& a, const QueueFile& b) {
    return goes_with(a) != goes_with(b) ? goes_with(a) : spool_name(a) < spool_name(b);
  });
  return files;
}

Result<> rename_new(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return {};
  return errno_failure(fmt::format("cannot move {} to {}", from.string(), to.string()), errno);
}

// Where a file of the spool belongs in a queue, with its directory made as Postfix would.
Result<fs::path> place_in_queue(const fs::path& queue_directory, const QueueFile& file, const std::string& id,
                                const std::string& hashed_queues, int depth) {
  // Sent anew at once, whatever was tried before; held stays held.
  const auto queue = file.queue == "active" || file.queue == "deferred" ? "incoming" : file.queue;
  auto words = split(hashed_queues, ' ');
  for (auto& word : words) std::erase(word, ',');
  const auto directory =
      queue_directory / queue / (std::ranges::find(words, queue) != words.end() ? hashed(id, depth) : "");
  std::error_code ignored;
  if (!fs::exists(directory, ignored)) {
    CHECK_OK(make_directories(directory, 0700));
    if (const auto* owner = ::getpwnam("postfix"); owner != nullptr)
      for (auto at = directory; at.string().size() > (queue_directory / queue).string().size(); at = at.parent_path())
        if (::chown(at.c_str(), owner->pw_uid, owner->pw_gid) != 0)
          return errno_failure("cannot give " + at.string() + " to postfix", errno);
  }
  return directory / id;
}

}  // namespace

Result<fs::path> Queue::spool(const std::string& move, const Limits& limits) const {
  return TRY(postfix_.queue_directory(limits)) / ("midstream-" + move);
}

Result<std::optional<Queue::Record>> Queue::load() {
  const auto path = state_ / "queue.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::optional<Record>();
  const auto saved = TRY(parse_json(TRY(read_file(path))));
  Record record{TRY(get_string(saved, "move")),
                TRY(get_string(saved, "host")),
                TRY(parse_plan(TRY(get_object(saved, "desired")))),
                TRY(title_from_json(saved)),
                get_int_or(saved, "deferring_ms", 0),
                get_bool_or(saved, "taking", false)};
  return std::optional(std::move(record));
}

Result<Queue::Record> Queue::installed() {
  auto record = TRY(load());
  if (!record) return refused("the mail queue is not set up on this host");
  return std::move(*record);
}

Result<> Queue::store(const Record& record) {
  auto saved = to_json(record.title);
  saved.update({{"move", record.move},
                {"host", record.host},
                {"desired", record.plan.raw},
                {"deferring_ms", record.deferring_ms},
                {"taking", record.taking}});
  CHECK_OK(make_directories(state_));
  return write_file_durably(state_ / "queue.json", saved.dump(), 0600);
}

Result<> Queue::configure(const Record& record, const Limits& limits) {
  const auto text = TRY(read_file(postfix_.main_cf()));
  const auto bare = TRY(without_settings(text, record.move));
  const auto& other = record.plan.other(record.host);
  const auto in_brackets = other.address.find(':') == std::string::npos ? other.address : "ipv6:" + other.address;
  auto networks = TRY(postfix_.setting("mynetworks", limits));
  const auto trusted =
      other.address.find(':') == std::string::npos ? other.address + "/32" : "[" + other.address + "]/128";
  if (networks.find(trusted) == std::string::npos) networks += " " + trusted;
  std::string body = fmt::format("mynetworks = {}\n", networks);
  if (!record.title.home())
    body += fmt::format(
        "relayhost = [{0}]:25\ndefault_transport = {1}\nrelay_transport = {1}\nsmtp_bind_address =\n"
        "smtp_bind_address6 =\n",
        in_brackets, kRelay);
  if (record.deferring_ms != 0)
    body += fmt::format("{}defer_transports = {}\n",
                        record.taking ? "" : "queue_minfree = 9000000000000000000\nnotify_classes =\n",
                        join(TRY(postfix_.transports(limits)), " "));
  const auto wanted = with_settings(bare, record.move, body);
  // A transport that main.cf names stands in master.cf.
  if (!record.title.home()) CHECK_OK(put_relay(record.move, true, limits));
  if (wanted != text) CHECK_OK(Postfix::write(postfix_.main_cf(), wanted));
  if (record.title.home()) CHECK_OK(put_relay(record.move, false, limits));
  in_hand_ = TRY(postfix_.deliveries(limits));
  CHECK_OK(postfix_.reload(limits));
  in_hand_->merge(TRY(postfix_.deliveries(limits)));
  skipped_ = true;
  return {};
}

// A new queue manager skips what an agent of its predecessor still has in hand, and looks again only at its next run, minutes
// later: it is told to look once those agents have ended.
Result<> Queue::look_again(const Limits& limits) {
  if (!skipped_) return {};
  const auto busy = TRY(postfix_.deliveries(limits));
  if (!in_hand_) in_hand_ = busy;
  std::erase_if(*in_hand_, [&](const auto& one) { return !busy.contains(one.first); });
  if (!in_hand_->empty()) return {};
  skipped_ = false;
  return TRY(postfix_.running(limits)) ? postfix_.scan(limits) : Result<>();
}

// Both sides go by one name, and Postfix bounces what would go to a host that greets with its own: the relay's agents go by
// another name, and say the right one to the other side.
Result<> Queue::put_relay(const std::string& move, bool there, const Limits& limits) {
  const auto text = TRY(read_file(postfix_.master_cf()));
  auto wanted = TRY(without_block(text, move, Place::tail));
  if (there) {
    const auto relay =
        fmt::format("{} unix - - n - - smtp\n  -o myhostname=relay.{}\n  -o smtp_helo_name={}\n", kRelay,
                    TRY(postfix_.setting("myhostname", limits)), TRY(postfix_.setting("smtp_helo_name", limits)));
    wanted = with_block(wanted, move, Place::tail, relay);
  }
  return wanted == text ? Result<>() : Postfix::write(postfix_.master_cf(), wanted);
}

Result<Json> Queue::install(const Context& context, const Plan& plan) {
  const Limits limits{context.deadline, context.stop};
  auto record = TRY(load());
  if (!record) {
    record = Record{context.task.move,
                    context.host,
                    plan,
                    {context.host == plan.old_side.host ? Holding::owner : Holding::standby, 0}};
    CHECK_OK(store(*record));
  }
  options_.checkpoint("queue.installed");
  if (!TRY(postfix_.running(limits)))
    return refused(fmt::format("Postfix does not run on {}", context.host), "start it");
  return Json::object();  // told to Postfix by what follows: resting, or release
}

Result<> Queue::uninstall(const Limits& limits) {
  const auto record = TRY(load());
  if (!record) return {};
  if (!TRY(list_spool(TRY(spool(record->move, limits)) / "out")).empty())
    return refused("queue files are still in midstream's spool", "run the hand-over of the queue to its end");
  const auto text = TRY(read_file(postfix_.main_cf()));
  const auto bare = TRY(without_settings(text, record->move));
  if (bare != text) CHECK_OK(Postfix::write(postfix_.main_cf(), bare));
  CHECK_OK(put_relay(record->move, false, limits));
  CHECK_OK(postfix_.reload(limits));
  CHECK_OK(postfix_.flush(limits));
  std::error_code failed;
  fs::remove_all(TRY(spool(record->move, limits)), failed);
  return remove_file_durably(state_ / "queue.json");
}

Result<Json> Queue::status(const Limits& limits) {
  const auto record = TRY(load());
  if (!record) return Json{{"state", "none"}, {"turn", 0}, {"deferring", false}, {"left", 0}};
  auto status = to_json(record->title);
  status["deferring"] = record->deferring_ms != 0;
  status["left"] = TRY(list_spool(TRY(spool(record->move, limits)) / fmt::format("in-{}", record->title.turn))).size();
  return status;
}

Result<> Queue::defer(bool taking, const Limits& limits) {
  auto record = TRY(installed());
  if (!taking && !record.title.home()) return {};  // handed over already
  record.deferring_ms = wall_now_ms();
  record.taking = taking;
  CHECK_OK(store(record));
  CHECK_OK(configure(record, limits));
  options_.checkpoint("queue.deferring");
  auto ended = deliveries_end(limits);
  if (ended || ended.error().kind != ErrorKind::retry) return ended;
  record.deferring_ms = 0;
  CHECK_OK(store(record));
  CHECK_OK(configure(record, limits));
  return ended;
}

// A message whose last byte was sent and whose answer is on its way would otherwise be sent once more.
Result<> Queue::deliveries_end(const Limits& limits) const {
  const auto patience = limits.deadline.sooner(kDeliveriesEnd);
  while (true) {
    const auto busy = TRY(postfix_.deliveries(limits));
    if (busy.empty()) return {};
    if (patience.expired())
      return retry(fmt::format("Postfix is still delivering: {}", busy.begin()->second),
                   "a slow server on the other end; it is tried again");
    if (!pause_for(Millis(20), limits.stop)) return failure(ErrorKind::cancelled, "asked to stop");
  }
}

Result<> Queue::release(const Limits& limits) {
  auto record = TRY(load());
  if (!record) return {};
  const bool was = record->deferring_ms != 0;
  record->deferring_ms = 0;
  CHECK_OK(store(*record));
  CHECK_OK(configure(*record, limits));
  return was ? postfix_.flush(limits) : Result<>();
}

Result<Json> Queue::give(const Context& context, std::uint64_t turn, const Limits& limits) {
  auto record = TRY(installed());
  const auto holder = record.title;
  record.title = TRY(begin_yield(holder, turn));
  if (record.title.holding == Holding::yielded) return Json{{"messages", 0}};
  if (!TRY(list_spool(TRY(spool(record.move, limits)) / fmt::format("in-{}", holder.turn))).empty())
    return retry("messages that came here are still being injected");
  CHECK_OK(store(record));
  options_.checkpoint("queue.yielding");
  if (record.deferring_ms == 0 || record.taking) CHECK_OK(defer(false, limits));
  record = TRY(installed());
  const auto back = [&](const Error& error) -> Result<Json> {
    CHECK_OK(take_back(record, {Deadline::in(Millis(20'000)), {}}));
    return std::unexpected(error);
  };
  const auto sent = [&]() -> Result<std::size_t> {
    const auto out = TRY(spool(record.move, limits)) / "out";
    CHECK_OK(sweep(out, limits));
    options_.checkpoint("queue.spooled");
    auto stream =
        TRY(context.peers.open(record.plan.other(record.host).host, "mail", {{"what", "queue"}, {"turn", turn}},
                               context.task, limits.deadline.sooner(Millis(10'000)), limits.stop));
    const auto files = TRY(list_spool(out));
    std::size_t messages = 0;
    for (const auto& file : files) {
      struct stat status {};
      if (::lstat(file.path.c_str(), &status) != 0) return errno_failure("cannot look at " + file.path.string(), errno);
      const auto bytes = TRY(read_file(file.path, kMessageLimit));
      const Json head{{"name", spool_name(file)},       {"size", bytes.size()}, {"hash", hash_of(bytes)},
                      {"mode", status.st_mode & 07777}, {"uid", status.st_uid}, {"mtime", status.st_mtim.tv_sec}};
      CHECK_OK(write_message(*stream, head, limits.deadline, limits.stop));
      for (std::size_t at = 0; at < bytes.size(); at += 1u << 20)
        CHECK_OK(write_frame(*stream, std::string_view(bytes).substr(at, 1u << 20), limits.deadline, limits.stop));
      messages += !goes_with(file);
    }
    CHECK_OK(write_message(*stream, {{"end", files.size()}}, limits.deadline, limits.stop));
    const auto had = TRY(read_message(*stream, limits.deadline, limits.stop));
    if (TRY(get_int(had, "have")) != static_cast<std::int64_t>(files.size()))
      return retry("the other side did not get all queue files");
    return messages;
  }();
  if (!sent) return back(sent.error());
  options_.checkpoint("queue.sent");
  record.title = TRY(finish_yield(record.title, turn));
  CHECK_OK(store(record));
  options_.checkpoint("queue.yielded");
  return Json{{"messages", *sent}};
}

// Every message out of a queue that runs but delivers nothing: what was on hold stays told apart from what we put there.
// What comes in afterwards is relayed to the other side.
Result<> Queue::sweep(const fs::path& out, const Limits& limits) {
  const auto queue = TRY(postfix_.queue_directory(limits));
  CHECK_OK(make_directories(out, 0700));
  const auto move = [&](std::string_view as) -> Result<> {
    for (auto& file : TRY(list_queues(queue, {"hold"}))) {
      if (!is_log(file.queue)) file.queue = as;
      CHECK_OK(rename_new(file.path, out / spool_name(file)));
    }
    return {};
  };
  std::error_code ignored;
  if (!fs::exists(out / "holding", ignored)) CHECK_OK(move("hold"));
  CHECK_OK(write_file_durably(out / "holding", ""));  // from here on whatever is on hold was put there by us
  while (true) {
    CHECK_OK(postfix_.hold_all(limits));
    options_.checkpoint("queue.held");
    // What is on hold no agent opens any more; one that had opened it still notes there what was delivered.
    CHECK_OK(deliveries_end(limits));
    CHECK_OK(move("incoming"));
    if (TRY(list_queues(queue, {"maildrop", "incoming", "active", "deferred"})).empty()) break;
    if (limits.deadline.expired()) return retry("the queue does not become empty");
    CHECK_OK(postfix_.pick_up(limits));
    if (!pause_for(Millis(100), limits.stop)) return failure(ErrorKind::cancelled, "asked to stop");
  }
  return sync_path(out, O_RDONLY | O_DIRECTORY);
}

// Everything goes where it was, and is tried again: before `yielded` the other side has injected nothing.
Result<> Queue::take_back(Record record, const Limits& limits) {
  const auto queue = TRY(postfix_.queue_directory(limits));
  const auto hashed_queues = TRY(postfix_.setting("hash_queue_names", limits));
  const int depth = std::atoi(TRY(postfix_.setting("hash_queue_depth", limits)).c_str());
  const auto out = TRY(spool(record.move, limits)) / "out";
  std::error_code absent;
  auto files = TRY(list_spool(out));
  // Put on hold by us, and not renamed before we died.
  if (fs::exists(out / "holding", absent)) {
    for (auto& file : TRY(list_queues(queue, {"hold"}))) {
      if (is_log(file.queue)) continue;
      file.queue = "incoming";
      files.insert(files.begin(), file);
    }
  }
  for (const auto& file : files)
    CHECK_OK(rename_new(file.path, TRY(place_in_queue(queue, file, file.id, hashed_queues, depth))));
  record.title = TRY(mail::keep(record.title, record.title.turn));
  record.deferring_ms = 0;
  CHECK_OK(store(record));
  CHECK_OK(configure(record, limits));
  std::error_code ignored;
  fs::remove_all(TRY(spool(record.move, limits)) / "out", ignored);
  return postfix_.flush(limits);
}

Result<> Queue::receive(Stream& stream, const Json& hello, const Limits& limits) {
  const std::lock_guard lock(mutex_);
  const auto record = TRY(installed());
  const auto turn = static_cast<std::uint64_t>(TRY(get_int(hello, "turn")));
  if (record.title.home() || turn <= record.title.turn)
    return failure(ErrorKind::fenced, fmt::format("a queue at turn {} comes too late: this host is {} at turn {}", turn,
                                                  to_string(record.title.holding), record.title.turn));
  const auto base = TRY(spool(record.move, limits));
  const auto into = base / fmt::format("in-{}", turn);
  std::error_code failed;
  // What an attempt that was taken back left here was never injected, and is still, or was since, on the other side.
  for (fs::directory_iterator at(base, failed), end; !failed && at != end; at.increment(failed))
    if (at->path().filename().string().starts_with("in-")) fs::remove_all(at->path());
  CHECK_OK(make_directories(into, 0700));
  std::vector<fs::path> paths;
  while (true) {
    const auto head = TRY(read_message(stream, limits.deadline, limits.stop));
    if (head.contains("end")) break;
    const auto name = TRY(get_string(head, "name"));
    if (!from_spool_name(name) || name.find('/') != std::string::npos)
      return corrupt(fmt::format("'{}' is no queue file", printable(name)));
    const auto size = TRY(get_int(head, "size"));
    if (size < 0 || size > static_cast<std::int64_t>(kMessageLimit))
      return refused(fmt::format("queue file {} is too large", name));
    std::string bytes;
    while (static_cast<std::int64_t>(bytes.size()) < size)
      bytes += TRY(read_frame(stream, limits.deadline, limits.stop, 1u << 20));
    if (hash_of(bytes) != TRY(get_string(head, "hash")))
      return corrupt(fmt::format("queue file {} was damaged on its way", name));
    const auto path = into / name;
    const auto mode = static_cast<unsigned>(TRY(get_int(head, "mode"))) & 0777;
    CHECK_OK(write_queue_file(path, bytes));
    const auto* owner = ::getpwnam("postfix");
    if (owner == nullptr) return refused("there is no user postfix on this host");
    const auto* drop = ::getgrnam("postdrop");
    const bool dropped = name.starts_with("maildrop.");
    const uid_t uid = dropped ? static_cast<uid_t>(TRY(get_int(head, "uid"))) : owner->pw_uid;
    const gid_t gid = dropped && drop != nullptr ? drop->gr_gid : owner->pw_gid;
    if (::chown(path.c_str(), uid, gid) != 0 || ::chmod(path.c_str(), mode) != 0)
      return errno_failure("cannot give " + path.string() + " its owner", errno);
    paths.push_back(path);
    options_.checkpoint("queue.received");
  }
  // All at the end: the file system commits them together.
  for (const auto& path : paths) CHECK_OK(sync_path(path, O_RDONLY));
  CHECK_OK(sync_path(into, O_RDONLY | O_DIRECTORY));
  CHECK_OK(sync_path(base, O_RDONLY | O_DIRECTORY));
  return write_message(stream, {{"have", paths.size()}}, limits.deadline, limits.stop);
}

// Each by one rename, so that it happens once whatever dies. Returns how many messages.
Result<std::size_t> Queue::inject(std::uint64_t turn, const Limits& limits) {
  const auto record = TRY(installed());
  const auto from = TRY(spool(record.move, limits)) / fmt::format("in-{}", turn);
  const auto queue = TRY(postfix_.queue_directory(limits));
  const auto hashed_queues = TRY(postfix_.setting("hash_queue_names", limits));
  const int depth = std::atoi(TRY(postfix_.setting("hash_queue_depth", limits)).c_str());
  const auto files = TRY(list_spool(from));
  // A short id is made of the inode, which is another one here; a long one repeats on no machine. The new name comes from
  // the message's own file, so a second try finds the same.
  const auto renamed = [&](const QueueFile& message) -> Result<std::string> {
    if (is_long_queue_id(message.id)) return message.id;
    struct stat status {};
    const auto own = message.path.parent_path() / spool_name(message);
    if (::lstat(own.c_str(), &status) != 0) return errno_failure("cannot look at " + own.string(), errno);
    return short_queue_id(static_cast<std::uint32_t>(status.st_mtim.tv_nsec / 1000), status.st_ino);
  };
  std::size_t injected = 0;
  for (const auto& message : files) {
    if (goes_with(message)) continue;
    const auto id = TRY(renamed(message));
    for (const auto& log : files) {
      if (!goes_with(log) || log.id != message.id) continue;
      std::error_code ignored;
      if (fs::exists(log.path, ignored))
        CHECK_OK(rename_new(log.path, TRY(place_in_queue(queue, log, id, hashed_queues, depth))));
    }
    CHECK_OK(rename_new(message.path, TRY(place_in_queue(queue, message, id, hashed_queues, depth))));
    ++injected;
    options_.checkpoint("queue.injected");
  }
  std::error_code ignored;
  fs::remove_all(from, ignored);
  if (injected > 0 && TRY(postfix_.running(limits))) CHECK_OK(postfix_.scan(limits));
  return injected;
}

Result<Json> Queue::take(std::uint64_t turn, const Limits& limits) {
  auto record = TRY(installed());
  record.title = TRY(mail::take(record.title, turn));
  record.deferring_ms = 0;
  CHECK_OK(store(record));
  options_.checkpoint("queue.taken");
  CHECK_OK(configure(record, limits));
  const auto injected = TRY(inject(turn, limits));
  // What waited here for the other side to take it goes out under the mail address now.
  CHECK_OK(postfix_.flush(limits));
  return Json{{"injected", injected}};
}

Result<> Queue::after(std::uint64_t turn, const Limits& limits) {
  auto record = TRY(installed());
  if (record.title != Title{Holding::yielded, turn})
    return failure(ErrorKind::fenced, fmt::format("the queue of turn {} is not given away from here", turn));
  std::error_code failed;
  fs::remove_all(TRY(spool(record.move, limits)) / "out", failed);
  if (failed) return errno_failure("cannot remove the spool", failed.value());
  options_.checkpoint("queue.forgotten");
  record.deferring_ms = 0;
  CHECK_OK(store(record));
  CHECK_OK(configure(record, limits));
  return postfix_.flush(limits);
}

Result<> Queue::keep(Millis lease, const Limits& limits) {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return {};  // an act is under way, which ends by itself
  auto record = TRY(load());
  if (!record) return {};
  CHECK_OK(look_again(limits));
  if (record->title.holding == Holding::yielding) return take_back(*record, limits);
  const auto deferred = Millis(record->deferring_ms == 0 ? 0 : wall_now_ms() - record->deferring_ms);
  const bool ours = record->title.holding == Holding::owner || record->taking;
  if (ours && deferred > lease && (deferred > kDeferLease || (!record->taking && TRY(leaves_from_here(limits))))) {
    log_warn("mail", "SMTP was deferred for longer than its lease: it is served again");
    return release(limits);
  }
  if (record->title.holding != Holding::owner) return {};
  if (TRY(list_spool(TRY(spool(record->move, limits)) / fmt::format("in-{}", record->title.turn))).empty()) return {};
  TRY(inject(record->title.turn, limits));
  return {};
}

// Whether the address that mail leaves by is this host's. Where none is set nobody knows.
Result<bool> Queue::leaves_from_here(const Limits& limits) const {
  const auto address = TRY(postfix_.setting("smtp_bind_address", limits));
  return !address.empty() && listen_tcp(address, 0).has_value();
}

Result<bool> Queue::between(const Limits& limits) {
  const auto record = TRY(load());
  if (!record || record->title.home()) return false;
  if (record->title.holding == Holding::yielded && record->deferring_ms != 0 && !record->taking) return true;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(TRY(spool(record->move, limits)), ignored))
    if (entry.path().filename().string().starts_with("in-")) return true;
  return false;
}

Result<> Queue::settle(const Json& theirs, const Limits& limits) {
  std::unique_lock lock(mutex_, std::try_to_lock);
  const auto record = TRY(load());
  if (!lock.owns_lock() || !record || record->title.home()) return {};
  const auto title = TRY(title_from_json(theirs));
  const auto came = TRY(spool(record->move, limits)) / fmt::format("in-{}", title.turn);
  std::error_code ignored;
  if (title.holding == Holding::owner && record->title == Title{Holding::yielded, title.turn})
    return record->deferring_ms != 0 && !record->taking ? after(title.turn, limits) : Result<>();
  if (title.turn <= record->title.turn || !fs::exists(came, ignored)) return {};
  if (title.holding == Holding::yielded) {
    log_warn("mail", "the queue was nowhere: it is here now");
    TRY(take(title.turn, limits));
  } else if (title.holding == Holding::owner) {  // taken back there: what was copied here is there
    fs::remove_all(came, ignored);
  }
  return {};
}

Result<Json> Queue::act(const Context& context, std::string_view verb, const Json& args) {
  const Limits limits{context.deadline, context.stop};
  if (verb == "queue-status") return status(limits);
  const std::lock_guard lock(mutex_);
  const auto turn = static_cast<std::uint64_t>(get_int_or(args, "turn", 0));
  if (verb == "queue-give") return give(context, turn, limits);
  if (verb == "queue-take") return take(turn, limits);
  if (verb == "queue-install") return install(context, TRY(parse_plan(TRY(get_object(args, "desired")))));
  Result<> done = refused(fmt::format("mover mail answers no request '{}'", printable(verb)));
  if (verb == "queue-uninstall") done = uninstall(limits);
  if (verb == "queue-defer") done = defer(false, limits);
  if (verb == "queue-rest") done = defer(true, limits);
  if (verb == "queue-release") done = release(limits);
  if (verb == "queue-after") done = after(turn, limits);
  if (!done) return std::unexpected(done.error());
  return Json::object();
}

Result<Json> Queue::observe(const Context& context, const Plan& plan, const Ask& old_side) {
  const Limits limits{context.deadline, context.stop};
  if (plan.kind == "defer") {
    const auto here = TRY(status(limits));
    const bool reached = get_bool_or(here, "deferring", false) || get_string_or(here, "state", "") != "owner";
    auto result = observation(reached, reached ? "" : "SMTP is not deferred");
    result["held"] = get_bool_or(here, "deferring", false);
    return result;
  }
  const auto here = TRY(status(limits));
  const auto there = TRY(old_side("queue-status", Json::object()));
  const bool ours = get_string_or(here, "state", "") == "owner";
  const bool settled = get_string_or(there, "state", "") == "yielded" && !get_bool_or(there, "deferring", true) &&
                       get_int_or(here, "left", 1) == 0;
  auto result = observation(ours && settled,
                            ours && settled ? "" : fmt::format("the queue is not wholly on {}", plan.new_side.host));
  const auto state = get_string_or(there, "state", "");
  result["held"] = !ours && (state == "yielding" || state == "yielded");
  result["titles"] = {{plan.old_side.host, there}, {plan.new_side.host, here}};
  return result;
}

Result<Json> hand_queue(const std::shared_ptr<Queue>& queue, const Ask& old_side, const Context& context,
                        const Plan& plan, bool back) {
  const auto began = boot_now();
  const Ask here = [&](std::string_view verb, const Json& args) { return queue->act(context, verb, args); };
  const Ask& giver = back ? here : old_side;
  const Ask& taker = back ? old_side : here;
  const auto given = TRY(giver("queue-status", Json::object()));
  const auto taken = TRY(taker("queue-status", Json::object()));
  auto turn = static_cast<std::uint64_t>(std::max(get_int_or(given, "turn", 0), get_int_or(taken, "turn", 0)));
  Json messages = 0;
  // Yielded by the taker, earlier, and not taken: that hand-over is brought to its end first.
  if (get_string_or(taken, "state", "") == "yielded" && get_string_or(given, "state", "") != "owner" &&
      get_int_or(taken, "turn", 0) > get_int_or(given, "turn", 0)) {
    TRY(giver("queue-take", {{"turn", turn}}));
    TRY(taker("queue-after", {{"turn", turn}}));
    return hand_queue(queue, old_side, context, plan, back);
  }
  if (get_string_or(taken, "state", "") != "owner") {
    if (get_string_or(given, "state", "") != "yielded") turn += get_string_or(given, "state", "") == "yielding" ? 0 : 1;
    messages = TRY(giver("queue-give", {{"turn", turn}})).value("messages", Json(0));
  }
  TRY(taker("queue-take", {{"turn", turn}}));
  const auto now = TRY(giver("queue-status", Json::object()));
  if (get_string_or(now, "state", "") == "yielded") TRY(giver("queue-after", {{"turn", turn}}));
  return Json{{"messages", messages}, {"ms", std::chrono::duration_cast<Millis>(boot_now() - began).count()}};
}

}  // namespace midstream::mail
