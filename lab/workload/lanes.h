// The users: each lane is one user, doing one thing after the other at its own pace, and writing all of it
// down.
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "lab/workload/ledger.h"
#include "lab/workload/orders.h"
#include "lab/workload/resolver.h"
#include "lab/workload/visitor.h"

namespace midstream::lab {

struct LaneOptions {
  int number = 0;
  std::chrono::nanoseconds interval{
      0};                   // from the start of one operation to the next; a late one is not made up for
  int visit = 50;           // requests, or database transactions, on one connection
  int replace_percent = 0;  // uploads that replace an own file rather than make a new one
  std::vector<std::string> statics;  // paths below /static/ to read
};

// What all lanes have in common: pace, and the order in which things are written down.
class Lane {
 public:
  Lane(Ledger& ledger, LaneOptions options)
      : ledger_(ledger), options_(std::move(options)), random_(std::random_device{}()) {}
  virtual ~Lane() = default;

  // Until `stop`; an operation that has begun is finished first. An error is the ledger's: nothing that
  // follows could be believed.
  Result<> run(const std::stop_token& stop);

 protected:
  virtual Result<> step() = 0;

  // Writes the attempt down, durably for writes, and notes the time at which the operation begins.
  Result<> attempt(Record& record, bool durable);
  Result<> outcome(Record record, RecordType type, std::string why = "");
  int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }
  // One of `things`, the newest ones more often.
  template <class T>
  const T& pick(const std::vector<T>& things) {
    const int n = static_cast<int>(things.size());
    return things[static_cast<std::size_t>(below(2) == 0 ? below(n) : n - 1 - below(std::min(n, 10)))];
  }
  Record new_record(OpKind kind);
  Record new_order(OpKind kind);

  Ledger& ledger_;
  const LaneOptions options_;

  std::mt19937_64& random() { return random_; }

 private:
  std::mt19937_64 random_;
};

// Orders over HTTP: places some, reads some of its own.
class OrderLane final : public Lane {
 public:
  OrderLane(Ledger& ledger, LaneOptions options, Resolver& resolver, const HttpUrl& url)
      : Lane(ledger, std::move(options)), visitor_(resolver, url, options_.visit) {}

 private:
  Result<> step() override;
  Result<> place();
  Result<> read();

  Visitor visitor_;
  std::vector<StoredOrder> placed_;
};

struct Upload {
  std::string name;
  std::string sha256;
};

// The acknowledged uploads that everybody may read, from the moment of their acknowledgement on. They are never
// replaced: whoever reads one gets just these bytes. Thread-safe.
class Showcase {
 public:
  void show(Upload upload);
  // One of the newest 20; nothing while there is none.
  std::optional<Upload> newest(std::mt19937_64& random) const;

 private:
  mutable std::mutex mutex_;
  std::vector<Upload> uploads_;
};

// Files over HTTP: uploads, reads its own, those of the others and static ones.
class FileLane final : public Lane {
 public:
  FileLane(Ledger& ledger, LaneOptions options, Resolver& resolver, const HttpUrl& url, Showcase& showcase)
      : Lane(ledger, std::move(options)), visitor_(resolver, url, options_.visit), showcase_(showcase) {}

 private:
  Result<> step() override;
  Result<> upload();
  Result<> read(const Upload& expected);
  Result<> read_static();

  Visitor visitor_;
  Showcase& showcase_;
  std::vector<Upload> uploads_;  // its own, that it may replace
};

// Orders straight into the database, over the name that clients know. On any error it connects anew and tries
// again with the same key, for up to 30 s.
class DatabaseLane final : public Lane {
 public:
  DatabaseLane(Ledger& ledger, LaneOptions options, Resolver& resolver, std::string conninfo,
               std::string host)
      : Lane(ledger, std::move(options)),
        resolver_(resolver),
        conninfo_(std::move(conninfo)),
        host_(std::move(host)) {}

 private:
  Result<> step() override;
  Result<Placed> place_once(const Order& order, Deadline deadline);

  Resolver& resolver_;
  const std::string conninfo_;
  const std::string host_;
  std::optional<PgConnection> connection_;
  int transactions_ = 0;
};

}  // namespace midstream::lab
