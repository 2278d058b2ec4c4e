// After a power cut. The file system of a host that was cut off may lack names and content that their writers never
// synced, while the other host holds them: what is sent as a change then must be a user's act, not the cut's.
// docs/decisions/0008-power-cuts.md says what is decidable and why.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "movers/files/apply.h"
#include "movers/files/tree.h"
#include "sys/stream.h"

namespace midstream::files {

// ---- the host that holds it
// Welcome, then what the index knows as Listings.
Result<> send_known(Tree& tree, Stream& stream, const std::stop_token& stop);
// One entry as it is now: Parts where it is large, then a Batch of one change. Retry where it is being changed.
Result<> send_entry(const Root& root, const std::string& path, Stream& stream, const std::stop_token& stop);

// ---- the host that lost it
class Mender {
 public:
  // Opens a stream to the other host with this hello ("for" and, of one entry, "entry").
  using Open = std::function<Result<std::unique_ptr<Stream>>(const Json& hello)>;
  Mender(Tree& tree, Open open, std::stop_token stop) : tree_(tree), open_(std::move(open)), stop_(std::move(stop)) {}

  // Resolves everything that the other host's index and this one's do not agree on, or that this one's cannot prove.
  // Before anything is sent. May be called again after an error.
  Result<> compare();

  // Resolves one path: in the end this host has what the other holds, or, where a user wrote here since, what the
  // other holds is kept aside and the walk sends what is here.
  Result<> mend(const std::string& path);

  std::uint64_t restored() const { return restored_; }

 private:
  struct Fetched {
    std::string body;  // what `change` points into
    Change change;
    Staged staged;
  };
  struct Local {
    std::optional<Stat> stat;
    Version version;
  };

  struct Doubt {
    std::string path;
    Version theirs;  // as listed; none where it was not
  };
  Result<std::vector<Doubt>> doubtful(Stream& stream);
  Result<bool> is_agreed(const Doubt& doubt);
  Result<> fetch(const std::string& path, Fetched& out);
  void drop(Fetched& fetched);
  Result<Local> look(const std::string& path);
  bool wins(const Local& local, const Version& theirs) const;
  Result<> settle(const std::string& path, Fetched& fetched);
  Result<> keep_local(const std::string& path, const Local& local);
  Result<> keep_theirs(const std::string& path, const Fetched& fetched);

  Tree& tree_;
  const Open open_;
  const std::stop_token stop_;
  std::atomic<std::uint64_t> restored_{0};
};

}  // namespace midstream::files
