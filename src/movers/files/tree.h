// What one host knows of one followed tree: shared by the follow that leaves this host and the streams that
// arrive, so that neither sends back what the other applied.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>


#include "movers/files/dirty.h"
#include "movers/files/index.h"
#include "movers/files/root.h"

namespace midstream::files {

// A state that was sent and is not yet known to be durable on the other host.
struct Sent {
  std::uint64_t sequence = 0;
  Entry entry;  // version none: a removal
};

struct Tree {
  std::string id;
  std::filesystem::path path;
  std::filesystem::path state;  // its own directory: index, follow, conflicts

  // Guards what follows, and every act in the tree that has to agree with it: looking at a path and putting its
  // state into a batch is one, applying a frame is another.
  std::mutex mutex;
  std::unique_ptr<Root> root;  // null until opened
  std::unique_ptr<Index> index;
  std::map<std::string, Sent, std::less<>> sent;
  bool received_unsynced = false;  // the index speaks of received changes that are not on disk yet
  std::uint64_t conflict_number = 0;

  DirtySet dirty;                       // thread-safe by itself
  std::atomic<bool> outgoing{false};    // a follow leaves this host: local changes will be sent
  std::atomic<std::uint64_t> conflicts{0};
  std::atomic<std::uint64_t> received{0};  // changes taken from the other host

  // What is known to be at `path` on both hosts or on its way: sent, else indexed, else null.
  const Entry* known(const std::string& path) const;
};

// Opens the index and, where it exists, the root; with `create` makes a missing root (0755) with its parents.
// Refused where the root is not the directory that was followed before. Idempotent.
Result<> open_tree(Tree& tree, bool create);

// Writes the index's pending records, unless they speak of received changes that no checkpoint has made durable:
// then the checkpoint writes them. With the tree's mutex held.
Result<> write_index(Tree& tree);

// Keeps what lost a conflict in the tree's state: the open file `fd`, or `bytes`.
Result<> keep_loser(Tree& tree, std::string_view path, int fd, std::string_view bytes);

}  // namespace midstream::files
