// What leaves for the other host, and what is known to have arrived. One thread fills and flushes, another feeds
// acknowledgements; any thread may ask.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "movers/files/courier.h"
#include "movers/files/tree.h"
#include "movers/files/wire.h"
#include "sys/stream.h"

namespace midstream::files {

class Outbox {
 public:
  explicit Outbox(Tree& tree) : tree_(tree) {}

  // A new stream: sequences begin again.
  void open(std::shared_ptr<Stream> stream, std::stop_token stop);
  // The stream is gone: everything that was not durable is marked dirty again.
  void close();

  // Adds a change to the batch and notes it as sent. With the tree's mutex held.
  void add(const Change& change, const Entry& entry);
  // Both hosts have it alike after all: what could not be put there, if anything, is no trouble any more.
  void nothing_to_send(const std::string& path);
  Result<> flush();
  Result<> flush_if_large();
  Result<> send(std::string frame);
  void count_bytes(std::uint64_t bytes);  // of a Part
  bool batch_empty() const { return batch_.empty(); }

  // More is in flight than should be: wait for acknowledgements.
  bool full();
  void acknowledge(const Ack& ack);

  struct Figures {
    std::uint64_t sequence = 0, applied = 0, durable = 0;
    std::uint64_t pending = 0;    // changes not yet visible there
    std::int64_t oldest_ns = 0;   // when the oldest of them was sent
    std::uint64_t sent_changes = 0, sent_bytes = 0;  // since the start; keep-alives are not counted
    std::uint64_t durable_files = 0, durable_bytes = 0;
    std::uint64_t refused = 0;  // changes that did not go in there, and are marked again
    std::map<std::string, std::string> troubles;  // path -> why it could not be put there
  };
  Figures figures();

  // Called after every acknowledgement.
  std::function<void()> progressed;

 private:
  struct Flight {
    std::uint64_t sequence = 0;
    std::int64_t at_ns = 0;
    std::uint64_t bytes = 0, files = 0, file_bytes = 0;
    std::vector<std::string> paths;
    std::vector<std::pair<std::string, std::string>> renames;  // from, to
  };
  void note_parents(std::string_view path);
  void commit(const Flight& flight);
  void fail(const Failure& failure, std::uint64_t sequence);
  void mark_failed(const Failure& failure, std::uint64_t sequence);
  std::optional<std::string> failed_rename(const std::string& to, std::uint64_t sequence);
  void settle_renames(const Flight& flight);
  void doubt_rename(const std::string& from, const std::string& to);

  Tree& tree_;
  std::unique_ptr<Courier> courier_;
  std::stop_token stop_;
  BatchWriter batch_;  // the filling thread's
  Flight next_;

  std::mutex mutex_;
  std::deque<Flight> flights_;
  std::uint64_t flight_bytes_ = 0, flight_paths_ = 0, part_bytes_ = 0;
  Figures figures_;
  std::map<std::string, int> failures_;  // how often in a row
};

}  // namespace midstream::files
