// What one host knows of one followed tree: shared by the follow that leaves this host and the streams that
// arrive, so that neither sends back what the other applied.
#pragma once

#include <atomic>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "movers/files/dirty.h"
#include "movers/files/index.h"
#include "movers/files/renames.h"
#include "movers/files/root.h"

namespace midstream::files {

// A state that was sent and is not yet known to be durable on the other host.
struct Sent {
  std::uint64_t sequence = 0;
  Entry entry;  // version none: a removal
};

// Which run of this host it is, and since when (wall clock, ns). A kernel boots once, but a container or a lab host is
// started anew within one boot: the start of its first process tells those apart.
struct HostRun {
  std::string name;
  std::int64_t since_ns = 0;
};
Result<HostRun> host_run();

// What lost a conflict, and where it lies.
struct Kept {
  std::string path;  // in the tree
  std::string file;  // below the tree's state
  std::int64_t wall_ms = 0;
};

struct Tree {
  std::string id;
  std::filesystem::path path;
  std::filesystem::path state;  // its own directory: index, follow, conflicts
  HostRun run;                  // set before it is opened

  // Guards what follows, and every act in the tree that has to agree with it: looking at a path and putting its
  // state into a batch is one, applying a frame is another.
  std::mutex mutex;
  std::unique_ptr<Root> root;  // null until opened
  std::unique_ptr<Index> index;
  std::map<std::string, Sent, std::less<>> sent;
  // Renames that were sent and are not yet known to be durable there, (from, to): the index has them in memory alone.
  std::vector<std::pair<std::string, std::string>> renaming;
  bool below_renaming(std::string_view path) const;  // whether the path is one's `to`, or lies below it
  bool received_unsynced = false;  // the index speaks of received changes that are not on disk yet
  bool syncing = false;            // a checkpoint is under way: what is noted meanwhile goes behind it
  bool distrusted = false;         // the host was started anew since: the file system may hold less than the index says
  std::deque<Kept> kept;           // the latest of what lost conflicts

  DirtySet dirty;                           // thread-safe by itself
  Renames renames;                          // likewise
  std::atomic<bool> outgoing{false};        // a follow leaves this host: local changes will be sent
  std::atomic<std::uint64_t> conflicts{0};  // kept so far on this host, over restarts
  std::atomic<std::uint64_t> received{0};   // changes taken from the other host

  std::mutex checkpoint_mutex;  // one checkpoint at a time; taken before `mutex`

  // Tests only: called where a kill would find something half done.
  std::function<void(std::string_view point)> at_point;
  void passes(std::string_view point) const {
    if (at_point) at_point(point);
  }

  // What is known to be at `path` on both hosts or on its way: sent, else indexed, else nothing.
  // Every path below the directory `path` that the other host has, or may have; no order.
  std::vector<std::string> known_below(std::string_view path) const;
  std::optional<Entry> known(std::string_view path) const;
};

// Opens the index and, where it exists, the root; with `create` makes a missing root (0755) with its parents.
// Refused where the root is not the directory that was followed before. Idempotent.
Result<> open_tree(Tree& tree, bool create);

// Writes the index's pending records, unless they speak of received changes that no checkpoint has made durable:
// then the checkpoint writes them. With the tree's mutex held.
Result<> write_index(Tree& tree);

// Makes the tree and then the index durable (syncfs, fdatasync). `begun` is called with the mutex held: what happened
// before it is covered. Without the tree's mutex held.
Result<> checkpoint(Tree& tree, const std::function<void()>& begun = {});

// The host's disk is as the index says again, or was made so: from here on this run counts. Durable with the next
// checkpoint. With the tree's mutex held.
void trust(Tree& tree);

// Keeps what loses a conflict, durably, under conflicts/ in the tree's state, and lists it there: the open file `fd`,
// or `bytes`. To be called before the loser's only copy goes. With the tree's mutex held.
Result<> keep_loser(Tree& tree, std::string_view path, int fd, std::string_view bytes);

// Keeps what a killed agent had taken out of its place, and empties the hidden directory of it. With the mutex held.
Result<> rescue(Tree& tree);

// The conflicts of this host for an operator: {"count", "folder", "latest": [{"path", "file", "wall_ms"}]}. With the
// tree's mutex held.
Json conflicts_json(const Tree& tree);

}  // namespace midstream::files
