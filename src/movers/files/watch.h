// What changes in a tree, as hints. One fanotify mark on the file system, whatever the tree holds; events of other
// trees are told apart by the handle of their directory. See fanotify(7), "Events are dirty hints": the kernel
// merges and the reader is late, so a hint says where to look, not what is there.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>

#include "base/result.h"
#include "movers/files/root.h"
#include "sys/fd.h"

namespace midstream::files {

enum class Hint {
  changed,    // look now
  directory,  // a directory came, went or moved: look now, and at what is below it, whatever it is called
  written,    // written to and not closed yet, as far as known
  children    // a directory whose own times changed with its children
};

// Called on the watcher's thread, in the order of the events; must not block for long.
struct WatchSink {
  std::function<void(std::string path, Hint hint)> changed;
  std::function<void(std::string from, std::string to)> renamed;     // before both are told as changed; may be empty
  std::function<void(std::string_view name)> cookie;                 // a name appeared in the hidden directory
  std::function<void(std::string why)> lost;                         // events were lost: look at everything
};

class Watcher {
 public:
  // The mark stands when this returns. refused where the kernel or the file system has no such marks.
  static Result<std::unique_ptr<Watcher>> start(const Root& root, WatchSink sink, bool unlimited_queue,
                                                const std::atomic<bool>* hold);
  ~Watcher();

 private:
  Watcher(const Root& root, Fd fan, WatchSink sink, const std::atomic<bool>* hold);
  void run(const std::stop_token& stop);
  void event(const void* metadata, std::string_view infos);
  void renamed(std::string_view infos);
  std::optional<std::string> path_of_record(std::string_view handle, std::string_view name);
  void name_changed(std::string_view handle, std::string_view name, std::uint64_t mask);
  // The path of a directory inside the tree, nullopt for one outside or gone.
  std::optional<std::string> resolve(std::string_view handle);
  std::optional<std::string> resolve_slowly(std::string_view handle) const;

  Root root_;
  Fd fan_;
  WatchSink sink_;
  const std::atomic<bool>* hold_;
  std::unordered_map<std::string, std::optional<std::string>> directories_;  // by handle
  std::jthread thread_;  // last: ends before what it uses
};

}  // namespace midstream::files
