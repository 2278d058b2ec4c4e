// One follow that leaves this host: watches, looks, sends, reconnects, until it is stopped.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "movers/files/files.h"
#include "movers/files/mend.h"
#include "movers/files/outbox.h"
#include "movers/files/scout.h"
#include "movers/files/watch.h"

namespace midstream::files {

struct FollowSpec {
  std::string id;
  std::string path;
  std::string to;
  std::vector<std::string> except;
  bool first = false;
};
Result<FollowSpec> follow_spec(const Json& desired);

class Outgoing {
 public:
  // `peers` outlives this. `copied`: an earlier run had everything copied; `on_copied` is called once when it is.
  Outgoing(std::shared_ptr<Tree> tree, FollowSpec spec, Task task, std::string host, Peers& peers,
           const FilesOptions& options, bool copied, std::function<void()> on_copied);
  ~Outgoing();

  void request_stop();  // does not wait

  const FollowSpec& spec() const { return spec_; }
  void set_task(const Task& task);
  // What desired.md says of observe. `until`: "copied" or "caught-up".
  Json observe(std::string_view until);
  // Everything that happened before this call is on the other host's disk when it returns.
  Result<Json> barrier(Deadline deadline, const std::stop_token& stop);

 private:
  void run(const std::stop_token& stop);
  Result<> connect_and_follow(const std::stop_token& stop);
  Result<> prepare();
  Result<std::shared_ptr<Stream>> connect(const std::stop_token& stop);
  Result<> follow(const std::shared_ptr<Stream>& stream, const std::stop_token& stop);
  Result<> turn(const std::stop_token& stop, bool& idle);
  Result<> keep_alive();
  void read_acks(Stream& stream, const std::stop_token& stop);
  Result<> check_root();
  Result<std::unique_ptr<Stream>> open_stream(Json hello, const std::stop_token& stop);
  Result<> mend_lost();
  void checkpoints(const std::stop_token& stop);
  void note_copied();
  Result<> start_watching();
  Result<> drain(Deadline deadline, const std::stop_token& stop);
  Result<> wait_for_cookie(Deadline deadline, const std::stop_token& stop);
  Result<> wait_for(Deadline deadline, const std::stop_token& stop, std::string_view what,
                    const std::function<bool()>& done);
  void notify();

  const std::shared_ptr<Tree> tree_;
  const FollowSpec spec_;
  const std::string host_;
  Peers& peers_;
  const FilesOptions options_;
  const std::function<void()> on_copied_;
  std::stop_source stop_;
  Outbox outbox_;
  std::unique_ptr<Scout> scout_;      // the worker's
  Mender mender_;                     // the worker's
  std::unique_ptr<Watcher> watcher_;  // the worker's

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::uint64_t ticks_ = 0;  // notifications so far
  Task task_;
  std::string why_ = "not connected yet";  // "": connected and going on
  std::string remote_why_;                 // the receiver's status
  std::string level_ = "none";
  std::set<std::string, std::less<>> cookies_;  // seen
  std::optional<Error> link_error_;
  std::uint64_t copied_sequence_ = 0;  // once durable, everything is copied
  std::uint64_t scanned_serial_ = 0;

  std::atomic<std::uint64_t> session_{0};  // streams so far
  std::atomic<bool> rescan_{true};
  std::atomic<bool> checkpoint_{false};
  std::atomic<bool> copied_{false};
  std::atomic<bool> connected_{false};
  std::atomic<bool> scanning_{true};
  std::atomic<bool> large_{false};
  std::atomic<std::uint64_t> scans_done_{0};
  std::atomic<int> urgent_{0};
  bool distrust_ = false;  // the worker's: the disk has been through a power cut since the index was written
  std::int64_t last_ping_ns_ = 0, last_root_ns_ = 0, last_scan_ns_ = 0;

  std::jthread syncer_;
  std::jthread worker_;  // last: ends before what it uses
};

// Processes of this host, but ours, that have a file below `path` open for writing: [{"pid", "command", "path"}].
Json open_writers(const std::string& path);

}  // namespace midstream::files
